// Calls of the service. A collection is '' for the index that is served, `collections/NAME` for an
// upload, `services/NAME` for another service, which the server asks. Paths are relative to the page.

import { akin, plain as normal } from './dom.js';

let key = '';

export function useKey(value) {
  key = value;
}

export class ServiceError extends Error {
  constructor(message, code, requestId) {
    super(message);
    this.code = code;
    this.requestId = requestId;
  }
}

async function send(path, options) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: 'no-store' });
  } catch {
    throw new ServiceError('The server cannot be reached. Is it still running?', 'unreachable');
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const code = body.code || `status ${response.status}`;
  throw new ServiceError(`${code}: ${body.message || 'no reason given'}`, code, response.headers.get('x-request-id'));
}

export function call(rpc, message, collection = '') {
  const path = collection ? `explore/${collection}/${rpc}` : `v1/${rpc}`;
  return send(path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(message),
  });
}

export function upload(lines) {
  return send('explore/collections', {
    method: 'POST',
    headers: { 'content-type': 'application/x-ndjson' },
    body: lines,
  });
}

export function configuration() {
  return send('explore/config.json', {});
}

export async function encode(text, kind, collection) {
  const request = { texts: [text], kind, decode: true, attribution: true };
  const reply = await call('encode', request, collection);
  return vectorOf(reply.encodings[0], reply);
}

// The vector as rows of term, token, weight and source, heaviest first.
function vectorOf(encoding, reply) {
  const own = new Set(encoding.textTokens.map(normal));
  const rows = encoding.vector.indices.map((term, i) => {
    const token = encoding.vector.tokens[i];
    const source = encoding.textTokens[encoding.sources[i]] || '';
    return {
      term,
      token,
      weight: encoding.vector.values[i],
      own: own.has(normal(token)) || akin(normal(token), normal(source)),
      source,
    };
  });
  rows.sort((a, b) => b.weight - a.weight || a.term - b.term);
  return { rows, tokens: encoding.textTokens, cut: encoding.cut, timings: reply.timings, vector: encoding.vector };
}
