// Tabs, key, and the collections that the views may use.

import { aboutView } from './about.js';
import { call, configuration, useKey } from './api.js';
import { compareView } from './compare.js';
import { element, number } from './dom.js';
import { encodeView } from './encode.js';
import { searchView } from './search.js';
import { uploadView } from './upload.js';

const collections = [['', 'index']];
const tabs = [...document.querySelectorAll('[role=tab]')];
const panel = (tab) => document.getElementById(tab.getAttribute('aria-controls'));

function select(chosen) {
  for (const tab of tabs) {
    const on = tab === chosen;
    tab.setAttribute('aria-selected', on);
    tab.tabIndex = on ? 0 : -1;
    panel(tab).hidden = !on;
  }
  if (chosen.id === 'tab-about') showAbout();
}

function onKey(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.indexOf(event.currentTarget) + step + tabs.length) % tabs.length];
  select(next);
  next.focus();
}

function fill(selector, options) {
  for (const list of document.querySelectorAll(selector)) {
    const before = list.value;
    list.replaceChildren(...options.map(([value, name]) => element('option', { value }, name)));
    if (options.some(([value]) => value === before)) list.value = before;
  }
}

function fillCollections() {
  fill('select[name=collection]', collections);
  const ways = collections.flatMap(([value, name]) => [
    [`${value}/TEXT_KIND_QUERY`, `${name}, text as query`],
    [`${value}/TEXT_KIND_DOCUMENT`, `${name}, text as document`],
  ]);
  fill('select[name=left], select[name=right]', ways);
}

async function connect() {
  const summary = document.getElementById('summary');
  try {
    const { index, model } = await call('info', {});
    summary.textContent = `${number(index.documents)} documents, ${model ? model.name : 'no encoder'}`;
  } catch (error) {
    summary.textContent = error.message;
  }
}

const showAbout = aboutView(document.getElementById('about'));
for (const tab of tabs) {
  tab.addEventListener('click', () => select(tab));
  tab.addEventListener('keydown', onKey);
}
document.getElementById('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  useKey(document.getElementById('key').value.trim());
  connect();
});
fillCollections();
document.querySelector('select[name=right]').selectedIndex = 1;
select(tabs[0]);

const config = await configuration();
searchView(document.getElementById('search'), config);
compareView(document.getElementById('compare'));
encodeView(document.getElementById('encode'));
uploadView(document.getElementById('upload'), config, (name) => {
  collections.push([name, name]);
  fillCollections();
});
await connect();
document.body.dataset.ready = 'true';
