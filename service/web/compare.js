// The compare view: one query, two columns: other collections, other services, other ways to encode.

import { call, encode } from './api.js';
import { comparedTerms } from './bars.js';
import { element, number, onSubmit, readable } from './dom.js';

const K = 20;
const TERMS = 12;

export function compareView(section) {
  const form = section.querySelector('form');
  onSubmit(form, section.querySelector('.result'), async (data) => {
    const text = data.get('text');
    const sides = await Promise.all(['left', 'right'].map((name) => answered(text, data.get(name), label(form, name))));
    const ids = sides.map((side) => side.answer.hits.map((hit) => hit.id));
    return [
      element('p', {}, verdict(...ids)),
      element('h2', {}, 'Query terms'),
      comparedTerms(caption(sides), sides.map((side) => side.name), sharedRows(sides)),
      element('div', { class: 'halves' }, sides.map((side, i) => column(side, ids[1 - i]))),
    ];
  });
}

function label(form, name) {
  return form.querySelector(`[name=${name}]`).selectedOptions[0].textContent;
}

// A way is a collection and the side of a search that the text is encoded for.
async function answered(text, way, name) {
  const end = way.lastIndexOf('/');
  const [collection, kind] = [way.slice(0, end), way.slice(end + 1)];
  const [query, info] = await Promise.all([encode(text, kind, collection), call('info', {}, collection)]);
  const asked = kind === 'TEXT_KIND_QUERY'
    ? { text }
    : { vector: { indices: query.vector.indices, values: query.vector.values } };
  const answer = await call('search', { query: asked, k: K, withDocument: true }, collection);
  return { name, query, info, answer };
}

function verdict(left, right) {
  const both = left.filter((id) => right.includes(id)).length;
  const found = left.findIndex((id, i) => id !== right[i]);
  const equal = found < 0 ? left.length : found;
  if (equal === Math.max(left.length, right.length)) return `The same ${equal} hits in the same order.`;
  return `${both} hits are in both columns; they differ from rank ${equal + 1} on.`;
}

function column({ name, info, answer }, others) {
  const { index, model } = info;
  return element('section', { 'aria-label': name },
    element('h2', {}, name),
    element('p', { class: 'hint' },
      `${number(index.documents)} documents, ${number(answer.matchedDocuments)} match; `
      + `${model.name}, queries by ${model.queryEncoder}, fingerprint ${model.fingerprint.slice(0, 8)}; `
      + `${number(Number(answer.timings.total) / 1e6, 1)} ms`),
    element('ol', { class: 'hits' }, answer.hits.map((hit, i) => element('li', {},
      element('div', { class: 'head' },
        element('h3', {}, `${i + 1}. ${hit.document.title || hit.id}`),
        element('span', { class: 'move' }, move(i, others.indexOf(hit.id))),
        element('span', { class: 'score' }, number(hit.score, 3)))))));
}

function move(here, there) {
  if (there < 0) return 'only here';
  if (there === here) return 'same rank';
  return here < there ? `▲ ${there - here} higher` : `▼ ${here - there} lower`;
}

// Terms of either query with their share of the largest weight, as the scales of two models differ.
function sharedRows(sides) {
  const shares = sides.map(({ query }) => new Map(
    query.rows.map((row) => [readable(row.token), row.weight / query.rows[0].weight])));
  const names = [...new Set(shares.flatMap((side) => [...side.keys()]))];
  const rows = names.map((name) => ({ name, shares: shares.map((side) => side.get(name) || 0) }));
  rows.sort((a, b) => Math.max(...b.shares) - Math.max(...a.shares));
  return rows.slice(0, TERMS);
}

function caption(sides) {
  const terms = sides.map(({ query }) => new Set(query.rows.map((row) => readable(row.token))));
  const common = [...terms[0]].filter((name) => terms[1].has(name)).length;
  return `${common} terms in common, of ${terms[0].size} and ${terms[1].size}; shares of each query's largest weight`;
}
