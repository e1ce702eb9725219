// The search view: query terms, time, hits and their terms, and why a document is not among them.

import { call, encode } from './api.js';
import { contributionTable, legend, termTable, waterfall } from './bars.js';
import { snippets } from './code.js';
import { element, number, onSubmit, plain, readable } from './dom.js';
import { filterControl } from './filter.js';
import { passage } from './passage.js';

const SHOWN_TERMS = 30;

// Returns the control of the filter.
export function searchView(section, config) {
  const form = section.querySelector('form');
  const result = section.querySelector('.result');
  const control = filterControl(form.querySelector('.filter'));
  form.elements.collection.addEventListener('change', async ({ target }) => {
    control.setFields({});
    const asked = target.value;
    const { index } = await call('info', {}, asked).catch(() => ({ index: { fields: {} } }));
    if (asked === target.value) control.setFields(index.fields);
  });
  onSubmit(form, result, async (data) => {
    const text = data.get('text');
    const collection = data.get('collection');
    const k = Number(data.get('k'));
    const filter = control.value();
    const asked = { query: { text }, k, explain: true, withDocument: true, ...(filter && { filter }) };
    const [answer, query, whole] = await Promise.all([
      call('search', asked, collection),
      encode(text, 'TEXT_KIND_QUERY', collection),
      filter && call('search', { query: { text }, k: 1 }, collection),
    ]);
    const own = ownOf(query);
    const side = element('div', {},
      element('h2', {}, 'Query'),
      legend(),
      termTable(termCaption(query.rows.length), query.rows.slice(0, SHOWN_TERMS)),
      element('h2', {}, 'Time'),
      waterfall(answer.timings),
      whyNot(text, collection, query, answer));
    const hits = element('div', {},
      element('h2', {}, `${number(answer.hits.length)} of ${number(answer.matchedDocuments)} matching documents`),
      whole && element('p', { class: 'counts' },
        `${number(answer.matchedDocuments)} of ${number(whole.matchedDocuments)} that match without the filter.`),
      element('p', { class: 'hint' }, facts(answer)),
      element('ol', { class: 'hits' }, answer.hits.map((hit, i) => hitItem(hit, i + 1, own))));
    const code = collection ? null : snippets(asked, config.grpc);
    return [code, element('div', { class: 'columns' }, side, hits)].filter(Boolean);
  });
  return control;
}

export function ownOf(query) {
  const tokens = new Set(query.rows.filter((row) => row.own).map((row) => row.token));
  return (token) => tokens.has(token);
}

function termCaption(count) {
  return count > SHOWN_TERMS ? `The ${SHOWN_TERMS} heaviest of ${count} terms` : `${count} terms`;
}

function facts(answer) {
  const cut = Object.entries(answer.cut).filter(([, count]) => Number(count));
  const said = cut.map(([what, count]) => `${number(count)} ${what} cut`);
  const read = `${number(answer.postingsRead)} postings read, generation ${answer.generation}`;
  return [read, ...said].join(', ');
}

export function hitItem(hit, rank, own) {
  const stored = hit.document || { title: '', text: '' };
  const tokens = hit.contributions.map((one) => one.token);
  return element('li', {},
    element('div', { class: 'head' },
      element('h3', {}, `${rank}. ${stored.title || hit.id}`),
      element('span', { class: 'id' }, hit.id),
      element('span', { class: 'score' }, `score ${number(hit.score, 3)}`)),
    stored.text ? passage(stored.text, tokens) : null,
    element('details', { open: rank === 1 },
      element('summary', {}, `Why: ${tokens.slice(0, 4).map(readable).join(', ')}`),
      contributionTable(hit, own)));
}

// A form that explains any document for the query that was searched.
function whyNot(text, collection, query, answer) {
  const result = element('div', { class: 'result', 'aria-live': 'polite' });
  const form = element('form', { class: 'query', name: 'why' },
    element('label', {}, 'Document id', element('input', { name: 'id', required: true })),
    element('button', {}, 'Explain'));
  onSubmit(form, result, async (data) => {
    const request = { query: { text }, ids: [data.get('id')], withDocument: true };
    const reply = await call('explain', request, collection);
    return explanation(reply.explanations[0], query, answer, reply.matchedDocuments);
  });
  return element('section', { 'aria-label': 'Why not' },
    element('h2', {}, 'Why not …?'),
    element('p', { class: 'hint' }, 'The score of any document for this query.'),
    form, result);
}

function explanation(one, query, answer, matched) {
  if (!one.hit) return [element('p', {}, `No document has the id ${one.id}.`)];
  const last = answer.hits.at(-1);
  const place = one.rank
    ? `Rank ${number(one.rank)} of ${number(matched)}, without a filter.`
    : one.hit.integerScore ? 'It matches, far behind.' : 'It shares no term with the query.';
  const gap = last && one.hit.integerScore < last.integerScore
    ? ` The last hit shown has ${number(last.integerScore)}; this one lacks ${number(last.integerScore - one.hit.integerScore)}.`
    : '';
  const shared = new Set(one.hit.contributions.map((each) => each.term));
  const missing = query.rows.filter((row) => !shared.has(row.term));
  return [
    element('p', { 'data-rank': one.rank || '' }, `${place} Score ${number(one.hit.integerScore)}.${gap}`),
    one.hit.contributions.length ? contributionTable(one.hit, ownOf(query), 8) : null,
    missing.length ? termTable(`${missing.length} query terms that it lacks`, missing.slice(0, 12)) : null,
    one.hit.document ? passage(one.hit.document.text, [...one.hit.contributions].map((each) => plain(each.token))) : null,
  ].filter(Boolean);
}
