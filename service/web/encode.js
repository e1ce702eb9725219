// The encode view: the vector of a pasted text.

import { encode } from './api.js';
import { legend, termTable, waterfall } from './bars.js';
import { element, number, onSubmit, readable } from './dom.js';

const SHOWN = 80;

export function encodeView(section) {
  onSubmit(section.querySelector('form'), section.querySelector('.result'), async (data) => {
    const made = await encode(data.get('text'), data.get('kind'), '');
    const expansion = made.rows.filter((row) => !row.own).length;
    const sources = new Map();
    for (const row of made.rows) sources.set(row.source, (sources.get(row.source) || 0) + 1);
    const words = made.tokens.flatMap((token) => {
      const count = sources.get(token) || 0;
      return [count ? element('mark', { title: `${count} terms` }, readable(token)) : readable(token), ' '];
    });
    return [
      element('p', { class: 'hint' },
        `${number(made.tokens.length)} tokens became ${number(made.rows.length)} terms, ${number(expansion)} of them expansion; `
        + `${number(made.cut.tokens)} tokens and ${number(made.cut.terms)} terms cut.`),
      element('div', { class: 'columns' },
        element('div', {},
          element('h2', {}, 'Tokens'),
          element('p', { class: 'hint' }, 'Marked: the tokens that gave terms their weight.'),
          element('p', { class: 'tokens' }, words),
          element('h2', {}, 'Time'),
          waterfall(made.timings)),
        element('div', {},
          element('h2', {}, 'Terms'),
          legend(),
          termTable(
            made.rows.length > SHOWN ? `The ${SHOWN} heaviest` : 'All terms', made.rows.slice(0, SHOWN)))),
    ];
  });
}
