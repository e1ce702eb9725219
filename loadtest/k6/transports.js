// The same searches over gRPC and over HTTP/JSON, in turns: what HTTP adds.
//
// k6 run -e GRPC=127.0.0.1:50051 -e HTTP=127.0.0.1:8080 -e PROTO=$PWD/proto/csplade/v1 \
//   [-e TEXT='a query'] [-e RATE=50] [-e SECONDS=10] loadtest/k6/transports.js

import { check } from 'k6';
import grpc from 'k6/net/grpc';
import http from 'k6/http';

const ROUNDS = 3;
const RATE = Number(__ENV.RATE || 50);
const SECONDS = Number(__ENV.SECONDS || 10);
const REQUEST = { query: { text: __ENV.TEXT || 'airline lost my bags' }, k: 10 };
const BODY = JSON.stringify(REQUEST);
const HEADERS = { headers: { 'content-type': 'application/json' } };
const LARGEST_ADDED_MS = 1;

const client = new grpc.Client();
client.load([__ENV.PROTO], 'retrieval.proto');
let connected = false;

const turns = Array.from({ length: 2 * ROUNDS }, (_, turn) => [
  `turn_${turn}`,
  {
    executor: 'constant-arrival-rate',
    exec: turn % 2 ? 'overHttp' : 'overGrpc',
    startTime: `${turn * (SECONDS + 2)}s`,
    duration: `${SECONDS}s`,
    rate: RATE,
    preAllocatedVUs: 4,
  },
]);

export const options = {
  scenarios: Object.fromEntries(turns),
  thresholds: { checks: ['rate==1'] },
  summaryTrendStats: ['med', 'p(95)', 'count'],
};

export function overGrpc() {
  if (!connected) {
    client.connect(__ENV.GRPC, { plaintext: true });
    connected = true;
  }
  const response = client.invoke('csplade.v1.RetrievalService/Search', REQUEST);
  check(response, { answered: (one) => one.status === grpc.StatusOK });
}

export function overHttp() {
  const response = http.post(`http://${__ENV.HTTP}/v1/search`, BODY, HEADERS);
  check(response, { answered: (one) => one.status === 200 });
}

export function handleSummary(data) {
  const { grpc_req_duration: overGrpcTime, http_req_duration: overHttpTime } = data.metrics;
  const [first, second] = [overGrpcTime.values, overHttpTime.values];
  const added = second.med - first.med;
  const line = (name, one) => `${name}  p50 ${one.med.toFixed(3)} ms  p95 ${one['p(95)'].toFixed(3)} ms  ${one.count} requests\n`;
  const verdict = added <= LARGEST_ADDED_MS ? 'kept' : 'MISSED';
  return {
    stdout: `${line('gRPC', first)}${line('HTTP', second)}HTTP adds ${added.toFixed(3)} ms at p50, allowed ${LARGEST_ADDED_MS} ms: ${verdict}\n`,
  };
}
