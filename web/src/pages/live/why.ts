/** How a lane stands, over all Pods that have it. Pure. */
import { type LaneSeries, latest } from '../../live/frames';

export interface Stand {
  name: string;
  /** Bit/s: sums over all Pods. */
  now: number;
  rate: number;
  ceil: number;
  /** Bytes that wait. */
  backlog: number;
  /** A second. */
  waits: number;
  dropped: number;
  workloads: number;
  why: 'fine' | 'ceiling' | 'borrows' | 'guarantee' | 'bursts';
}

const FULL = 0.93;

export function standOf(lane: LaneSeries): Stand {
  const value = (field: string) => latest(lane.values[field]);
  const now = value('bytes') * 8;
  const stand = {
    name: lane.lane,
    now,
    rate: value('rate'),
    ceil: value('ceil'),
    backlog: value('backlog'),
    waits: value('overlimits'),
    dropped: value('dropped'),
    workloads: Math.round(value('workloads')),
  };
  return { ...stand, why: whyOf(stand) };
}

function whyOf({ now, rate, ceil, backlog, waits }: Omit<Stand, 'why' | 'name'>): Stand['why'] {
  if (waits < 1 && backlog < 1) return 'fine';
  if (now >= ceil * FULL) return 'ceiling';
  if (now >= rate * 1.03) return 'borrows';
  return now >= rate * FULL ? 'guarantee' : 'bursts';
}

/** Of so many lanes the sum, by second. */
export function total(lanes: LaneSeries[], field: string): number {
  return lanes.reduce((sum, lane) => sum + latest(lane.values[field]), 0);
}
