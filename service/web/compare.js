// The compare view: one query, two collections or two ways to encode it.

import { call, encode } from './api.js';
import { legend, termTable } from './bars.js';
import { element, number, onSubmit } from './dom.js';

const K = 20;

export function compareView(section) {
  onSubmit(section.querySelector('form'), section.querySelector('.result'), async (data) => {
    const text = data.get('text');
    const sides = await Promise.all([data.get('left'), data.get('right')].map((way) => ranked(text, way)));
    const terms = sides.map((side) => new Set(side.query.rows.map((row) => row.token)));
    const ids = sides.map((side) => side.answer.hits.map((hit) => hit.id));
    const common = [...terms[0]].filter((token) => terms[1].has(token)).length;
    const both = ids[0].filter((id) => ids[1].includes(id)).length;
    return [
      element('p', { class: 'hint' },
        `${both} hits in both of the first ${K}; ${common} terms in common, of ${terms[0].size} and ${terms[1].size}.`),
      element('div', { class: 'halves' }, sides.map((side, i) => column(side, ids[1 - i]))),
    ];
  });
}

// A way is a collection and the side of a search that the text is encoded for.
async function ranked(text, way) {
  const [collection, kind] = way.split('/');
  const query = await encode(text, kind, collection);
  const asked = kind === 'TEXT_KIND_QUERY'
    ? { text }
    : { vector: { indices: query.vector.indices, values: query.vector.values } };
  const answer = await call('search', { query: asked, k: K, withDocument: true }, collection);
  return { query, answer };
}

function column({ query, answer }, others) {
  return element('div', {},
    element('h2', {}, `${number(answer.matchedDocuments)} match`),
    element('ol', { class: 'hits' }, answer.hits.map((hit, i) => element('li', {},
      element('div', { class: 'head' },
        element('h3', {}, `${i + 1}. ${hit.document.title || hit.id}`),
        element('span', { class: 'move' }, move(i, others.indexOf(hit.id))),
        element('span', { class: 'score' }, number(hit.score, 3)))))),
    element('h2', {}, 'Query terms'),
    legend(),
    termTable(`The heaviest of ${query.rows.length}`, query.rows.slice(0, 15)));
}

function move(here, there) {
  if (there < 0) return 'only here';
  if (there === here) return 'same rank';
  return here < there ? `▲ ${there - here} higher` : `▼ ${here - there} lower`;
}
