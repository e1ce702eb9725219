// Passages with the words of matched terms marked.

import { akin, element, plain } from './dom.js';

const WORD = /[\p{L}\p{N}]+/gu;
const SHORTEST_PREFIX = 3; // letters of a term that may mark a part of a word

export function passage(text, tokens) {
  const terms = new Set(tokens.map(plain));
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(WORD)) {
    const length = marked(match[0].toLowerCase(), terms);
    if (!length) continue;
    parts.push(text.slice(end, match.index));
    parts.push(element('mark', {}, match[0].slice(0, length)));
    end = match.index + length;
  }
  parts.push(text.slice(end));
  return element('p', { class: 'passage' }, parts);
}

// Letters of a word that a term covers: all of it but for an ending, or the longest beginning.
function marked(word, terms) {
  if (terms.has(word) || [...terms].some((term) => akin(term, word))) return word.length;
  for (let length = word.length - 1; length >= SHORTEST_PREFIX; length -= 1) {
    if (terms.has(word.slice(0, length))) return length;
  }
  return 0;
}
