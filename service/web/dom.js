// Elements made of text alone: documents are written by strangers, so nothing is parsed as HTML.

export function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === 'class') made.className = value;
    else if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

export function number(value, digits = 0) {
  return Number(value).toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// Token strings mark the beginning of a word (Ġ, ▁) or its continuation (##); readers need neither.
export function readable(token) {
  return token.replace(/^[Ġ▁]+/u, '').replace(/^##/, '') || token;
}

export function plain(token) {
  return readable(token).toLowerCase();
}

// Whether one word is the other with an ending of at most two letters, as airline and airlines are.
export function akin(one, other) {
  const [short, long] = one.length < other.length ? [one, other] : [other, one];
  return short.length >= 3 && long.length - short.length <= 2 && long.startsWith(short);
}

// Runs the work of a form while its button is disabled, and shows its error.
export function onSubmit(form, result, work) {
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const button = form.querySelector('button');
    button.disabled = true;
    result.setAttribute('aria-busy', 'true');
    try {
      result.replaceChildren(...await work(new FormData(form)));
    } catch (error) {
      result.replaceChildren(failure(error));
    } finally {
      button.disabled = false;
      result.removeAttribute('aria-busy');
    }
  });
}

export function failure(error) {
  const id = error.requestId ? ` (request ${error.requestId})` : '';
  return element('p', { class: 'error', role: 'alert' }, `${error.message}${id}`);
}
