// The same search from a terminal or a program.

import { element } from './dom.js';

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// The request is a search for a text.
export function snippets(request, grpc) {
  const body = JSON.stringify(request);
  const { query, k, filter } = request;
  const given = [JSON.stringify(query.text), `k=${k}`, 'explain=True', 'with_document=True'];
  if (filter) given.push(`filter=json.loads(${JSON.stringify(JSON.stringify(filter))})`);
  const samples = {
    curl: `curl -s ${new URL('v1/search', document.baseURI)} -H 'content-type: application/json' \\\n  -d ${shell(body)}`,
    grpcurl: `grpcurl -plaintext -d ${shell(body)} \\\n  ${grpc} csplade.v1.RetrievalService/Search`,
    Python: [
      ...(filter ? ['import json', ''] : []),
      'from csplade import Client',
      '',
      `with Client(${JSON.stringify(grpc)}) as client:`,
      `    for hit in client.search(${given.join(', ')}):`,
      '        print(hit)',
    ].join('\n'),
  };
  return element('details', {},
    element('summary', {}, 'As curl, grpcurl, Python'),
    Object.entries(samples).map(([name, code]) => [element('h3', {}, name), element('pre', { tabindex: '0' }, code)]));
}
