// One rate, open loop: requests start when they are due, however long others take. Connections are opened and warmed for
// WARM seconds, which do not count.
//
// Environment besides that of common.js:
//   RATE  requests a second    SECONDS  how long    WARM  whole seconds before, >= 1; default 2
//   RAMP  seconds to come up to RATE, from 0; default 0
//   P99   milliseconds: k6 fails (exit status 99) if the 99th percentile is above it    ERRORS  share that may fail; default 0

import { ask, handleSummary, keep, keepCounts, pool, STATUSES, summaryTrendStats } from './common.js';

const RATE = Number(__ENV.RATE);
const SECONDS = Number(__ENV.SECONDS);
const WARM = Number(__ENV.WARM || 2);
const RAMP = Number(__ENV.RAMP || 0);
// Rates are given in thousandths of a request, in a unit of 1000 s: they need not be whole.
const unit = { rate: Math.round(RATE * 1000), timeUnit: '1000s' };

const steady = RAMP
  ? {
      executor: 'ramping-arrival-rate',
      startRate: 0,
      timeUnit: unit.timeUnit,
      stages: [{ target: unit.rate, duration: `${RAMP}s` }, { target: unit.rate, duration: `${SECONDS - RAMP}s` }],
    }
  : { executor: 'constant-arrival-rate', ...unit, duration: `${SECONDS}s` };

const thresholds = {
  ...keep(['scenario:steady', 'kind:text,scenario:steady', 'kind:vector,scenario:steady', 'kind:encode,scenario:steady']),
  ...keepCounts('steady'),
};
const answered = `grpc_req_duration{scenario:steady,status:${STATUSES.OK}}`;
if (__ENV.P99) thresholds[answered].push(`p(99)<${__ENV.P99}`);
thresholds['checks{scenario:steady}'] = [`rate>=${1 - Number(__ENV.ERRORS || 0)}`];

export const options = {
  scenarios: {
    // A second between them: k6 then takes the connections of the first for the second.
    warm: { executor: 'constant-arrival-rate', ...unit, duration: `${WARM}s`, ...pool, gracefulStop: '1s' },
    steady: { ...steady, startTime: `${WARM + 1}s`, ...pool },
  },
  thresholds,
  summaryTrendStats,
};

export { handleSummary };

export default function () {
  ask({});
}
