// The filter of a search: conditions on declared fields, all of which must hold.

import { element } from './dom.js';

const RANGES = ['integer', 'float', 'datetime'];
const OPERATORS = [
  { name: 'is', make: (values) => ({ match: { any: values } }) },
  { name: 'is not', make: (values) => ({ match: { except: values } }) },
  { name: 'at least', types: RANGES, make: ([value]) => ({ range: { gte: value } }) },
  { name: 'at most', types: RANGES, make: ([value]) => ({ range: { lte: value } }) },
  { name: 'is there', bare: true, make: () => ({ exists: true }) },
  { name: 'is absent', bare: true, make: () => ({ exists: false }) },
];

// Returns setFields, which takes the type of each field by its name, and value, null for no filter.
export function filterControl(fieldset) {
  const list = fieldset.querySelector('.conditions');
  let fields = {};
  fieldset.querySelector('button').addEventListener('click', () => {
    const row = conditionRow(fields);
    list.append(row);
    row.querySelector('select').focus();
  });
  return {
    setFields(next) {
      fields = next;
      list.replaceChildren();
      fieldset.hidden = !Object.keys(fields).length;
    },
    value() {
      const must = [...list.children].map((row) => condition(row, fields));
      return must.length ? { must } : null;
    },
  };
}

function conditionRow(fields) {
  const options = (names) => names.map((name) => element('option', {}, name));
  const field = element('select', { 'aria-label': 'Field' }, options(Object.keys(fields).sort()));
  const operator = element('select', { 'aria-label': 'Comparison' });
  const value = element('input', { 'aria-label': 'Values', placeholder: 'a, b', required: true });
  const row = element('div', { class: 'condition' }, field, operator, value,
    element('button', { type: 'button', 'aria-label': 'Remove the condition', onclick: () => row.remove() }, '×'));
  const fit = () => {
    const allowed = OPERATORS.filter((one) => !one.types || one.types.includes(fields[field.value]));
    operator.replaceChildren(...options(allowed.map((one) => one.name)));
    hideValue();
  };
  const hideValue = () => {
    const { bare } = OPERATORS.find((one) => one.name === operator.value);
    value.hidden = value.disabled = Boolean(bare);
  };
  field.addEventListener('change', fit);
  operator.addEventListener('change', hideValue);
  fit();
  return row;
}

function condition(row, fields) {
  const [field, operator, input] = [...row.children].map((one) => one.value);
  const values = input.split(',').map((one) => typed(one.trim(), fields[field]));
  return { field, ...OPERATORS.find((one) => one.name === operator).make(values) };
}

// A value of the field's type where the text is one; the service rejects all others by name.
function typed(text, type) {
  if (type === 'bool' && ['true', 'false'].includes(text)) return text === 'true';
  if (type === 'integer' && Number.isSafeInteger(Number(text)) && text) return Number(text);
  if (type === 'float' && Number.isFinite(Number(text)) && text) return Number(text);
  return text;
}
