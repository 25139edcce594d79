import { expect, it } from 'vitest';
import { standOf } from './why';

const lane = (bytes: number, overlimits: number) => ({
  policy: 'shop',
  lane: 'api',
  direction: 'egress',
  values: Object.fromEntries(
    Object.entries({ bytes, overlimits, backlog: 0, dropped: 0, rate: 20e6, ceil: 60e6, workloads: 2 }).map(
      ([key, value]) => [key, Float64Array.of(value)],
    ),
  ),
});

it.each([
  [1e6 / 8, 0, 'fine'],
  [59e6 / 8, 9, 'ceiling'],
  [40e6 / 8, 9, 'borrows'],
  [20e6 / 8, 9, 'guarantee'],
  [5e6 / 8, 9, 'bursts'],
])('%d bytes a second of which %d wait: %s', (bytes, waits, why) => expect(standOf(lane(bytes, waits)).why).toBe(why));
