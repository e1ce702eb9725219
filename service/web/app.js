// Tabs, key, and the collections that the views may use.

import { aboutView } from './about.js';
import { call, configuration, useKey } from './api.js';
import { compareView } from './compare.js';
import { element, number } from './dom.js';
import { encodeView } from './encode.js';
import { searchView } from './search.js';
import { uploadView } from './upload.js';

const collections = [['', 'this index']];
const allTabs = () => [...document.querySelectorAll('[role=tab]')];
const panel = (tab) => document.getElementById(tab.getAttribute('aria-controls'));

function select(chosen) {
  for (const tab of allTabs()) {
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
  const tabs = allTabs();
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
    if (!document.querySelector('#search [name=collection]').value) filter.setFields(index.fields);
  } catch (error) {
    summary.textContent = error.message;
  }
}

const showAbout = aboutView(document.getElementById('about'));
for (const tab of allTabs()) {
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
select(allTabs()[0]);

function addCollection(value, name) {
  collections.push([value, name]);
  fillCollections();
}

const config = await configuration();
const filter = searchView(document.getElementById('search'), config);
compareView(document.getElementById('compare'));
encodeView(document.getElementById('encode'));
if (config.upload) uploadView(document.getElementById('upload'), config, addCollection);
else document.getElementById('tab-upload').remove();
for (const name of config.services) addCollection(`services/${name}`, name);
if (config.services.length) {
  document.querySelector('select[name=right]').value = `services/${config.services[0]}/TEXT_KIND_QUERY`;
}
await connect();
document.body.dataset.ready = 'true';
