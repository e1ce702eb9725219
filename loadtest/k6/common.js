// What the scripts share: one request per iteration, and what is recorded of its answer.
//
// Environment (k6 run -e NAME=VALUE):
//   TARGET    host:port
//   PROTO     folder of retrieval.proto
//   REQUESTS  JSON list of {kind, method, message} in the order of sending; `csplade loadtest`
//             writes it
//   SUMMARY   file of the summary (JSON) to write
//   TIMEOUT   deadline of every request in seconds; default 10
//   VUS       connections opened beforehand; default 20
//   MAX_VUS   connections at most; a request that needs another is counted, not sent
//   METADATA  JSON object, sent with every request
//   CA        PEM file: use TLS and trust this authority

import exec from 'k6/execution';
import { SharedArray } from 'k6/data';
import { check } from 'k6';
import { Counter, Trend } from 'k6/metrics';
import grpc from 'k6/net/grpc';

export const STATUSES = { OK: 0, DEADLINE_EXCEEDED: 4, RESOURCE_EXHAUSTED: 8, UNAVAILABLE: 14 };
const STAGES = [
  'queue', 'tokenize', 'encode', 'sparsify', 'score', 'select', 'merge', 'fetch', 'total',
];

const TIMEOUT = `${Number(__ENV.TIMEOUT || 10)}s`;
const METADATA = JSON.parse(__ENV.METADATA || '{}');
const TLS = __ENV.CA ? { tls: { cacerts: [open(__ENV.CA)] } } : { plaintext: true };

const requests = new SharedArray('requests', () => JSON.parse(open(__ENV.REQUESTS)));
const trends = Object.fromEntries(
  STAGES.map((stage) => [stage, new Trend(`server_${stage}`, true)]),
);
const unreached = new Counter('unreached');

const client = new grpc.Client();
client.load([__ENV.PROTO], 'retrieval.proto');
let connected = false;

// Connections, and how long k6 waits for requests in flight when a scenario ends.
export const pool = {
  preAllocatedVUs: Number(__ENV.VUS || 20),
  maxVUs: Number(__ENV.MAX_VUS || 200),
  gracefulStop: TIMEOUT,
};

// Sends the next request; the tags go to its measured time.
export function ask(tags) {
  const request = requests[exec.scenario.iterationInTest % requests.length];
  try {
    if (!connected) {
      client.connect(__ENV.TARGET, { timeout: TIMEOUT, ...TLS });
      connected = true;
    }
  } catch (error) {
    unreached.add(1);
    return;
  }
  const response = client.invoke(`csplade.v1.RetrievalService/${request.method}`, request.message, {
    metadata: METADATA,
    timeout: TIMEOUT,
    tags: { kind: request.kind, ...tags },
  });
  const answered = ({ status }) => status === grpc.StatusOK;
  if (!check(response, { answered }, tags)) return;
  const timings = response.message.timings || {};
  for (const stage of STAGES) {
    const nanoseconds = Number(timings[stage] || 0);
    if (nanoseconds) trends[stage].add(nanoseconds / 1e6);
  }
}

// k6 reports a part of a metric only if a threshold names it; these thresholds always hold.
export function keep(selectors) {
  const kept = {};
  for (const selector of selectors) {
    kept[`grpc_req_duration{${selector}}`] = ['max>=0'];
    for (const status of Object.values(STATUSES)) {
      kept[`grpc_req_duration{${selector},status:${status}}`] = ['max>=0'];
    }
  }
  return kept;
}

// The same for requests that k6 could not send, and for the server's own times, of a scenario.
export function keepCounts(scenario) {
  const kept = {};
  for (const name of ['dropped_iterations', 'unreached']) {
    kept[`${name}{scenario:${scenario}}`] = ['count>=0'];
  }
  for (const stage of STAGES) kept[`server_${stage}{scenario:${scenario}}`] = ['max>=0'];
  return kept;
}

export const summaryTrendStats = ['count', 'min', 'med', 'p(95)', 'p(99)', 'max'];

export function handleSummary(data) {
  return { [__ENV.SUMMARY]: JSON.stringify({ metrics: data.metrics }, null, 1) };
}
