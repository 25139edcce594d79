/** What the control plane sends at /v1/live (docs/reference/live.md), and series made of it. Pure. */

export interface LaneKey {
  policy: string;
  lane: string;
  direction: string;
}

export interface SeriesHead {
  type: 'series';
  id: number;
  from: number;
  seconds: number;
  cursor: number;
  gap: boolean;
  fields: string[];
  /** Policy, lane, direction. */
  lanes: [string, string, string][];
  left_out: number;
}

/** A binary message: the text before its floats, and these. */
export function parseFrame(data: ArrayBuffer): { head: SeriesHead; values: Float32Array } {
  const size = new DataView(data).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size))) as SeriesHead;
  return { head, values: new Float32Array(data, 4 + size) };
}

export interface LaneSeries extends LaneKey {
  /** By field, a value for each second; NaN: nobody has said anything. */
  values: Record<string, Float64Array>;
}

export interface Series {
  /** Unix second of the first value. */
  from: number;
  seconds: number;
  lanes: LaneSeries[];
}

export const keyOf = (lane: LaneKey) => `${lane.policy}\n${lane.lane}\n${lane.direction}`;

/** What is known after a frame: the last `span` seconds of all lanes that either knows. */
export function withFrame(before: Series | undefined, head: SeriesHead, values: Float32Array, span: number): Series {
  const end = head.from + head.seconds;
  const from = end - span;
  const lanes = new Map<string, LaneSeries>();
  const laneOf = (key: LaneKey) => {
    const name = keyOf(key);
    let found = lanes.get(name);
    if (!found) {
      const { policy, lane, direction } = key;
      found = { policy, lane, direction, values: {} };
      for (const field of head.fields) found.values[field] = new Float64Array(span).fill(Number.NaN);
      lanes.set(name, found);
    }
    return found;
  };
  for (const old of before?.lanes ?? []) {
    const kept = laneOf(old);
    for (const field of head.fields) {
      const source = old.values[field];
      const target = kept.values[field];
      if (!source || !target || !before) continue;
      for (let at = 0; at < span; at += 1) {
        const value = source[from + at - before.from];
        if (value !== undefined && from + at < head.from) target[at] = value;
      }
    }
  }
  head.lanes.forEach(([policy, name, direction], index) => {
    const lane = laneOf({ policy, lane: name, direction });
    head.fields.forEach((field, place) => {
      const start = (index * head.fields.length + place) * head.seconds;
      const target = lane.values[field];
      for (let at = 0; at < head.seconds && target; at += 1) {
        const to = head.from + at - from;
        if (to >= 0) target[to] = values[start + at] ?? Number.NaN;
      }
    });
    // Seconds in which no agent has said anything of it are not seconds in which nothing was sent.
    const workloads = lane.values.workloads;
    for (let at = Math.max(0, head.from - from); workloads && at < span; at += 1) {
      if (workloads[at] === 0) for (const field of head.fields) (lane.values[field] as Float64Array)[at] = Number.NaN;
    }
  });
  const told = [...lanes.values()].filter((lane) =>
    Object.values(lane.values).some((each) => each.some((value) => !Number.isNaN(value))),
  );
  return { from, seconds: span, lanes: told };
}

/** The mean of the last seconds of which something is known. */
export function latest(values: Float64Array | undefined, seconds = 3): number {
  let sum = 0;
  let known = 0;
  for (let at = (values?.length ?? 0) - 1; at >= 0 && known < seconds; at -= 1) {
    const value = values?.[at] as number;
    if (!Number.isNaN(value)) {
      sum += value;
      known += 1;
    }
  }
  return known ? sum / known : 0;
}
