// Half the rate that the server can do, then several times of it, then half again: what is refused, how quickly, what becomes
// of those let in, and how soon all is well again. The part after the overload is told second by second.
//
// Environment besides that of common.js:
//   RATE  requests a second that the server can do    FACTOR  of overload; default 4
//   SECONDS  of overload    AROUND  seconds before and after it; default 10

import exec from 'k6/execution';
import { ask, handleSummary, keep, keepCounts, pool, summaryTrendStats } from './common.js';

const RATE = Number(__ENV.RATE);
const FACTOR = Number(__ENV.FACTOR || 4);
const SECONDS = Number(__ENV.SECONDS);
const AROUND = Number(__ENV.AROUND || 10);
const WARM = 2;

// k6 takes its time to open connections: all that may be needed are there before the overload begins.
const all = { ...pool, preAllocatedVUs: pool.maxVUs };
const half = { executor: 'constant-arrival-rate', rate: Math.round(RATE * 500), timeUnit: '1000s', ...pool };
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
