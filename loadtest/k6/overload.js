// Half the rate that the server can answer, then several times that rate, then half again: what is
// rejected and how quickly, what becomes of accepted requests, and how soon all is well again. The
// part after the overload is reported second by second.
//
// Environment, in addition to that of common.js:
//   RATE     requests per second that the server can answer
//   FACTOR   of the overload; default 4
//   SECONDS  of the overload
//   AROUND   seconds before and after it; default 10
//   WARM     whole seconds of warm-up, >= 1; default 2

import exec from 'k6/execution';
import { ask, handleSummary, keep, keepCounts, pool, summaryTrendStats } from './common.js';

const RATE = Number(__ENV.RATE);
const FACTOR = Number(__ENV.FACTOR || 4);
const SECONDS = Number(__ENV.SECONDS);
const AROUND = Number(__ENV.AROUND || 10);
const WARM = Number(__ENV.WARM || 2);

// k6 opens connections slowly: open all that may be needed before the overload begins.
const all = { ...pool, preAllocatedVUs: pool.maxVUs };
const half = {
  executor: 'constant-arrival-rate',
  rate: Math.round(RATE * 500),
  timeUnit: '1000s',
  ...pool,
};
const PHASES = ['before', 'overload', 'after'];
const seconds = Array.from({ length: AROUND }, (_, second) => `scenario:after,second:${second}`);

export const options = {
  scenarios: {
    warm: { ...half, duration: `${WARM}s`, gracefulStop: '1s' },
    before: { ...half, startTime: `${WARM + 1}s`, duration: `${AROUND}s` },
    overload: {
      executor: 'ramping-arrival-rate',
      startRate: Math.round(RATE * 500),
      timeUnit: '1000s',
      stages: [
        { target: Math.round(RATE * FACTOR * 1000), duration: '1s' },
        { target: Math.round(RATE * FACTOR * 1000), duration: `${SECONDS - 1}s` },
      ],
      ...all,
      startTime: `${WARM + 1 + AROUND}s`,
    },
    after: { ...half, startTime: `${WARM + 1 + AROUND + SECONDS}s`, duration: `${AROUND}s` },
  },
  thresholds: Object.assign(
    keep([...PHASES.map((phase) => `scenario:${phase}`), ...seconds]),
    ...PHASES.map(keepCounts),
  ),
  summaryTrendStats,
};

export { handleSummary };

export default function () {
  const { name, startTime } = exec.scenario;
  ask(name === 'after' ? { second: String(Math.floor((Date.now() - startTime) / 1000)) } : {});
}
