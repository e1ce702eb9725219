// The collection view: what a collection or another service holds.

import { call } from './api.js';
import { element, failure, number } from './dom.js';

function list(pairs) {
  return element('dl', {}, pairs.map(([name, value]) => [element('dt', {}, name), element('dd', {}, String(value))]));
}

export function aboutView(section) {
  const result = section.querySelector('.result');
  const chosen = section.querySelector('select');
  const show = async () => {
    const asked = chosen.value;
    const parts = await call('info', {}, asked).then(described, (error) => [failure(error)]);
    if (asked === chosen.value) result.replaceChildren(...parts);
  };
  chosen.addEventListener('change', show);
  return show;
}

function described(info) {
  const { index, model, limits } = info;
  const parts = [
    element('h2', {}, 'Index'),
    list([
      ['Documents', number(index.documents)],
      ['Postings', number(index.postings)],
      ['Bytes', number(index.bytes)],
      ['Generation', index.generation],
      ['Documents can be written', index.writable ? 'yes' : 'no'],
      ['Vocabulary', number(index.vocabularySize)],
      ['Shards', index.shards.map((shard) => number(shard.documents)).join(' + ')],
      ['Document scale', index.documentScale],
      ['Largest impact', number(index.maxImpact)],
      ['Query modifier', index.queryModifier],
      ['Fields', Object.entries(index.fields).map(([name, type]) => `${name}: ${type}`).join(', ') || 'none'],
    ]),
  ];
  if (model) {
    parts.push(element('h2', {}, 'Encoder'), list([['Name', model.name], ['Fingerprint', model.fingerprint]]),
      element('details', {}, element('summary', {}, 'Manifest'),
        element('pre', { tabindex: '0' }, JSON.stringify(JSON.parse(model.manifestJson), null, 2))));
  }
  parts.push(element('h2', {}, 'Limits'), list(Object.entries(limits)),
    element('h2', {}, 'Versions'), list([['csplade', info.version], ...Object.entries(info.versions)]));
  return parts;
}
