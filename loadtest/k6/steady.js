// One rate, open loop: requests start when they are due, however long others take. Connections are
// opened and warmed up for WARM seconds, which do not count.
//
// Environment, in addition to that of common.js:
//   RATE     requests per second
//   SECONDS  duration
//   WARM     whole seconds of warm-up, >= 1; default 2
//   RAMP     seconds in which the rate rises from 0 to RATE; default 0
//   P99      milliseconds: k6 exits with 99 if the 99th percentile is above it
//   ERRORS   share of requests that may fail; default 0

import { ask, handleSummary, keep, keepCounts, pool, STATUSES, summaryTrendStats } from './common.js';

const RATE = Number(__ENV.RATE);
const SECONDS = Number(__ENV.SECONDS);
const WARM = Number(__ENV.WARM || 2);
const RAMP = Number(__ENV.RAMP || 0);
// k6 takes whole rates only: count requests per 1000 s.
const unit = { rate: Math.round(RATE * 1000), timeUnit: '1000s' };

const steady = RAMP
  ? {
      executor: 'ramping-arrival-rate',
      startRate: 0,
      timeUnit: unit.timeUnit,
      stages: [
        { target: unit.rate, duration: `${RAMP}s` },
        { target: unit.rate, duration: `${SECONDS - RAMP}s` },
      ],
    }
  : { executor: 'constant-arrival-rate', ...unit, duration: `${SECONDS}s` };

const thresholds = {
  ...keep([
    'scenario:steady',
    ...['text', 'vector', 'encode'].map((kind) => `kind:${kind},scenario:steady`),
  ]),
  ...keepCounts('steady'),
};
const answered = `grpc_req_duration{scenario:steady,status:${STATUSES.OK}}`;
if (__ENV.P99) thresholds[answered].push(`p(99)<${__ENV.P99}`);
thresholds['checks{scenario:steady}'] = [`rate>=${1 - Number(__ENV.ERRORS || 0)}`];

export const options = {
  scenarios: {
    // A second between the scenarios lets k6 use the connections of the first in the second.
    warm: {
      executor: 'constant-arrival-rate',
      ...unit,
      duration: `${WARM}s`,
      ...pool,
      gracefulStop: '1s',
    },
    steady: { ...steady, startTime: `${WARM + 1}s`, ...pool },
  },
  thresholds,
  summaryTrendStats,
};

export { handleSummary };

export default function () {
  ask({});
}
