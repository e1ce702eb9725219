// The upload view: a few documents of one's own, in a collection that goes away.

import { upload } from './api.js';
import { element, number, onSubmit } from './dom.js';

export function uploadView(section, config, onCollection) {
  const { documents, bytes, seconds } = config.upload;
  section.querySelector('#upload-limits').textContent =
    `Each line: {"_id": "a", "title": "…", "text": "…"}. At most ${number(documents)} documents and `
    + `${number(bytes)} bytes. The collection is removed after ${number(seconds / 60)} minutes.`;
  onSubmit(section.querySelector('form'), section.querySelector('.result'), async (data) => {
    const file = data.get('file');
    const lines = file && file.size ? await file.text() : data.get('lines');
    const made = await upload(lines);
    onCollection(`collections/${made.collection}`, made.collection);
    return [element('p', { 'data-collection': made.collection },
      `${number(made.documents)} documents are indexed as ${made.collection}. Choose it in Search or Compare.`)];
  });
}
