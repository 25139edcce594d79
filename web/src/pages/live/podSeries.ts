/** What one Pod has sent since somebody looks at it: agents tell it each second, and nobody keeps it. Pure. */
import type { Schemas } from '../../api/client';
import type { LaneSeries } from '../../live/frames';
import { type Stand, standOf } from './why';

type Workload = Schemas['LiveWorkload'];

/** One row of the Pod, at a Unix second. */
export interface Sample {
  at: number;
  row: Workload;
}

/** The last `span` seconds, with what is heard now. A row of the same second takes the place of the one before. */
export function grown(before: Sample[], at: number, row: Workload | undefined, span: number): Sample[] {
  if (!row) return before;
  const second = Math.floor(at);
  return [...before.filter((each) => each.at > second - span && each.at < second), { at: second, row }];
}

/** Bit/s of each lane in each second of the span; NaN where nothing was heard. */
export function drawnOf(
  samples: Sample[],
  direction: string,
  span: number,
): { times: number[]; bits: Map<string, number[]> } {
  const end = samples.at(-1)?.at ?? 0;
  const times = Array.from({ length: span }, (_, at) => end - span + 1 + at);
  const bits = new Map<string, number[]>();
  for (const { at, row } of samples) {
    for (const lane of row.lanes) {
      if (lane.direction !== direction) continue;
      let values = bits.get(lane.lane);
      if (!values) {
        values = Array<number>(span).fill(Number.NaN);
        bits.set(lane.lane, values);
      }
      const place = at - (end - span + 1);
      if (place >= 0) values[place] = lane.bytes * 8;
    }
  }
  return { times, bits };
}

/** How each of a workload's lanes stands now: the same rules as for the sums over all Pods. */
export function standsOf(row: Workload, direction: string): Stand[] {
  return row.lanes
    .filter((lane) => lane.direction === direction)
    .map((lane) => {
      const { bytes, dropped, backlog, rate, ceil, throttled } = lane;
      const now = { bytes, dropped, backlog, rate, ceil, overlimits: throttled, workloads: 1 };
      const values = Object.fromEntries(Object.entries(now).map(([key, value]) => [key, Float64Array.of(value)]));
      return standOf({ policy: row.policy, lane: lane.lane, direction, values } as LaneSeries);
    });
}

export const namespaceOf = ({ workload }: Workload) =>
  workload.includes('/') ? workload.slice(0, workload.indexOf('/')) : '';

export interface Group {
  name: string;
  pods: number;
  bytes: number;
  throttled: number;
  dropped: number;
}

/** Pods of an agent together, by their namespace or by what runs them: sums, the greatest first. */
export function groupsOf(rows: Workload[], nameOf: (row: Workload) => string): Group[] {
  const found = new Map<string, Group>();
  for (const row of rows) {
    const { bytes, throttled, dropped } = row;
    const name = nameOf(row);
    const sum = found.get(name) ?? { name, pods: 0, bytes: 0, throttled: 0, dropped: 0 };
    found.set(name, {
      name,
      pods: sum.pods + 1,
      bytes: sum.bytes + bytes,
      throttled: sum.throttled + throttled,
      dropped: sum.dropped + dropped,
    });
  }
  return [...found.values()].sort((a, b) => b.bytes - a.bytes || (a.name < b.name ? -1 : 1));
}
