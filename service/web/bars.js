// Bars, as rows of tables that read well without them.

import { element, number, readable } from './dom.js';

function bar(start, length) {
  const fill = element('span', { class: 'fill' });
  fill.style.left = `${100 * start}%`;
  fill.style.width = `${100 * length}%`;
  return element('td', { class: 'bar' }, element('span', { class: 'track', 'aria-hidden': 'true' }, fill));
}

function table(caption, headings, rows, kind = '') {
  const head = headings.map((one) => element('th', { scope: 'col', class: one.number ? 'number' : '' }, one.name));
  return element('table', { class: kind },
    element('caption', {}, caption),
    element('thead', {}, element('tr', {}, head)),
    element('tbody', {}, rows));
}

export function legend() {
  return element('p', { class: 'legend' },
    element('span', {}, 'own token of the text'),
    element('span', { class: 'expansion' }, 'expansion by the model'));
}

// Terms of a vector: {token, weight, own, source}, heaviest first.
export function termTable(caption, rows) {
  const largest = rows.length ? rows[0].weight : 1;
  return table(
    caption,
    [{ name: 'Term' }, { name: 'Share' }, { name: 'From' }, { name: 'Weight', number: true }],
    rows.map((row) => element('tr', { class: row.own ? '' : 'expansion' },
      element('td', { class: 'term' }, readable(row.token)),
      bar(0, row.weight / largest),
      element('td', { class: 'from' }, readable(row.source)),
      element('td', { class: 'number' }, number(row.weight, 2)))),
  );
}

// Terms of two queries: {name, shares}, a share from 0 to 1 on each side, 0 where it lacks the term.
export function comparedTerms(caption, sides, rows) {
  const cells = (share) => (share
    ? [bar(0, share), element('td', { class: 'number' }, number(share, 2))]
    : [element('td', { class: 'bar' }), element('td', { class: 'number' }, '-')]);
  return table(
    caption,
    [{ name: 'Term' }, ...sides.flatMap((side) => [{ name: side }, { name: 'Share', number: true }])],
    rows.map((row) => element('tr', { class: row.shares.every(Boolean) ? '' : 'lone' },
      element('td', { class: 'term' }, row.name),
      row.shares.map(cells))),
    'compared',
  );
}

// Contributions of a hit; the bars follow each other and end at its score.
export function contributionTable(hit, own, shown = 12) {
  const first = hit.contributions.slice(0, shown);
  const rest = hit.contributions.slice(shown);
  const rows = first.map((one) => ({
    name: readable(one.token) || `term ${one.term}`,
    detail: `${number(one.queryImpact)} × ${number(one.documentImpact)}`,
    product: one.product,
    kind: own(one.token) ? '' : 'expansion',
  }));
  if (rest.length) {
    const product = rest.reduce((sum, one) => sum + one.product, 0);
    rows.push({ name: `${rest.length} more terms`, detail: '', product, kind: 'rest' });
  }
  let end = 0;
  const made = rows.map((row) => {
    const start = end / hit.integerScore;
    end += row.product;
    return element('tr', { class: row.kind },
      element('td', { class: 'term' }, row.name),
      bar(start, row.product / hit.integerScore),
      element('td', { class: 'number' }, row.detail),
      element('td', { class: 'number' }, number(row.product)));
  });
  made.push(element('tr', {},
    element('td', { class: 'term' }, 'Sum'),
    element('td', { class: 'bar' }),
    element('td', { class: 'number' }),
    element('td', { class: 'number', 'data-sum': end }, number(end))));
  const exact = end === hit.integerScore ? 'exactly the score' : `NOT the score ${number(hit.integerScore)}`;
  return table(
    `${hit.contributions.length} shared terms; their products sum to ${number(end)}, ${exact}`,
    [{ name: 'Term' }, { name: 'Share' }, { name: 'Query × document', number: true }, { name: 'Product', number: true }],
    made,
  );
}

const STAGES = ['queue', 'tokenize', 'encode', 'sparsify', 'score', 'select', 'merge', 'fetch'];

export function waterfall(timings) {
  const total = Math.max(Number(timings.total), 1);
  let at = 0;
  const rows = STAGES.filter((name) => Number(timings[name])).map((name) => {
    const spent = Number(timings[name]);
    const row = element('tr', {},
      element('td', { class: 'term' }, name),
      bar(Math.min(at / total, 1), Math.min(spent / total, 1)),
      element('td', { class: 'number' }, number(spent / 1e6, 2)));
    at += spent;
    return row;
  });
  return table(
    `Stages in the server, ${number(total / 1e6, 2)} ms in all`,
    [{ name: 'Stage' }, { name: 'Time' }, { name: 'ms', number: true }],
    rows,
  );
}
