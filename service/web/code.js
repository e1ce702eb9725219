// The same search from a terminal or a program.

import { element } from './dom.js';

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

export function snippets(text, k, grpc) {
  const body = JSON.stringify({ query: { text }, k, explain: true, withDocument: true });
  const samples = {
    curl: `curl -s ${new URL('v1/search', document.baseURI)} -H 'content-type: application/json' \\\n  -d ${shell(body)}`,
    grpcurl: `grpcurl -plaintext -d ${shell(body)} \\\n  ${grpc} csplade.v1.RetrievalService/Search`,
    Python: [
      'from csplade import Client',
      '',
      `with Client(${JSON.stringify(grpc)}) as client:`,
      `    for hit in client.search(${JSON.stringify(text)}, k=${k}, explain=True):`,
      '        print(hit)',
    ].join('\n'),
  };
  return element('details', {},
    element('summary', {}, 'As curl, grpcurl, Python'),
    Object.entries(samples).map(([name, code]) => [element('h3', {}, name), element('pre', { tabindex: '0' }, code)]));
}
