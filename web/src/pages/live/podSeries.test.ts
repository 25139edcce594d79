import { expect, it } from 'vitest';
import { drawnOf, groupsOf, grown, namespaceOf, type Sample, standsOf } from './podSeries';

const lane = (name: string, bytes: number, throttled = 0) => ({
  lane: name,
  direction: 'egress',
  bytes,
  packets: 1,
  dropped: 0,
  throttled,
  backlog: 0,
  rate: 20e6,
  ceil: 60e6,
});
const row = (workload: string, ...lanes: ReturnType<typeof lane>[]) => ({
  workload,
  policy: 'shop',
  controller: 'Deployment/web',
  bytes: lanes.reduce((sum, each) => sum + each.bytes, 0),
  packets: 1,
  dropped: 0,
  throttled: 0,
  backlog: 0,
  lanes,
});

it('keeps the last seconds, one row for each', () => {
  let samples: Sample[] = [];
  for (const [at, bytes] of [
    [10.2, 1],
    [10.9, 2],
    [11, 3],
    [14, 4],
  ] as const)
    samples = grown(samples, at, row('a/b', lane('api', bytes)), 4);
  expect(samples.map((each) => [each.at, each.row.bytes])).toEqual([
    [11, 3],
    [14, 4],
  ]);
  expect(grown(samples, 15, undefined, 4)).toBe(samples);
  const { times, bits } = drawnOf(samples, 'egress', 4);
  expect(times).toEqual([11, 12, 13, 14]);
  expect(bits.get('api')).toEqual([24, Number.NaN, Number.NaN, 32]);
  expect(drawnOf(samples, 'ingress', 4).bits.size).toBe(0);
});

it('says why a Pod’s lane waits', () => {
  const stands = standsOf(row('a/b', lane('api', 59e6 / 8, 9), lane('web', 1)), 'egress');
  expect(stands.map((each) => [each.name, each.why])).toEqual([
    ['api', 'ceiling'],
    ['web', 'fine'],
  ]);
});

it('sums up groups, the greatest first', () => {
  const rows = [row('a/x', lane('api', 1)), row('b/x', lane('api', 5)), row('a/y', lane('api', 2))];
  const found = groupsOf(rows, namespaceOf);
  expect(found.map((each) => [each.name, each.pods, each.bytes])).toEqual([
    ['b', 1, 5],
    ['a', 2, 3],
  ]);
  expect(groupsOf(rows, (each) => each.controller).map((each) => [each.name, each.pods])).toEqual([
    ['Deployment/web', 3],
  ]);
});
