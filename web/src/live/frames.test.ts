import { expect, it } from 'vitest';
import { latest, parseFrame, type SeriesHead, withFrame } from './frames';

const lane = (name: string): [string, string, string] => ['shop', name, 'egress'];
const head = (from: number, seconds: number, lanes: string[]): SeriesHead => ({
  type: 'series',
  id: 1,
  from,
  seconds,
  cursor: from + seconds,
  gap: false,
  fields: ['bytes', 'rate'],
  lanes: lanes.map(lane),
  left_out: 0,
});

it('reads a binary message as the reference has it', () => {
  let text = JSON.stringify(head(10, 2, ['api']));
  while ((text.length + 4) % 4) text += ' ';
  const data = new ArrayBuffer(4 + text.length + 16);
  new DataView(data).setUint32(0, text.length, true);
  new Uint8Array(data, 4, text.length).set(new TextEncoder().encode(text));
  new Float32Array(data, 4 + text.length).set([1, 2, 3, 4]);
  const frame = parseFrame(data);
  expect([frame.head.from, ...frame.values]).toEqual([10, 1, 2, 3, 4]);
});

it('joins frames without a gap, and lets lanes come later', () => {
  const first = withFrame(undefined, head(10, 3, ['api']), Float32Array.of(1, 2, 3, 9, 9, 9), 4);
  expect([first.from, ...(first.lanes[0]?.values.bytes ?? [])]).toEqual([9, Number.NaN, 1, 2, 3]);
  const second = withFrame(first, head(13, 1, ['web', 'api']), Float32Array.of(7, 8, 4, 9), 4);
  const bytes = Object.fromEntries(second.lanes.map((each) => [each.lane, [...(each.values.bytes ?? [])]]));
  expect(bytes).toEqual({ api: [1, 2, 3, 4], web: [Number.NaN, Number.NaN, Number.NaN, 7] });
});

it('forgets lanes of which nothing is known any more', () => {
  const first = withFrame(undefined, head(10, 1, ['old']), Float32Array.of(1, 1), 3);
  expect(withFrame(first, head(20, 1, ['new']), Float32Array.of(1, 1), 3).lanes.map((each) => each.lane)).toEqual([
    'new',
  ]);
});

it('knows the latest of what is known', () => {
  expect(latest(Float64Array.of(1, 2, Number.NaN), 2)).toBe(1.5);
  expect(latest(undefined)).toBe(0);
});

it('does not take silence for nothing sent', () => {
  const silent = { ...head(10, 2, ['api']), fields: ['bytes', 'workloads'] };
  const series = withFrame(undefined, silent, Float32Array.of(0, 5, 0, 2), 2);
  expect([...(series.lanes[0]?.values.bytes ?? [])]).toEqual([Number.NaN, 5]);
});

const bytesIn = (lanes: { values: Record<string, Float64Array> }[]) =>
  lanes.flatMap(({ values }) => Object.values(values)).reduce((sum, each) => sum + each.byteLength, 0);

it('keeps as much from the first second on as after two hours', () => {
  const lanes = ['api', 'web', 'sync'];
  const frame = (from: number, seconds: number, names: string[]) =>
    [head(from, seconds, names), new Float32Array(names.length * 2 * seconds).fill(5)] as const;
  let series = withFrame(undefined, ...frame(0, 1, lanes), 60);
  const size = bytesIn(series.lanes);
  expect(size).toBe(lanes.length * 2 * 60 * Float64Array.BYTES_PER_ELEMENT);
  let most = 0;
  for (let second = 1; second < 7200; second += 1) {
    // Once the connection is away for ten seconds, of which the next frame tells.
    if (second > 3000 && second < 3010) continue;
    // A lane of a name of its own in each minute, as policies are changed.
    const names = second % 60 === 0 ? [...lanes, `lane-${second}`] : lanes;
    series = withFrame(series, ...(second === 3010 ? frame(3001, 10, names) : frame(second, 1, names)), 60);
    most = Math.max(most, bytesIn(series.lanes));
  }
  expect(most).toBeLessThanOrEqual((size / lanes.length) * (lanes.length + 1));
  expect(series.lanes.map((each) => each.lane).slice(0, 3)).toEqual(lanes);
  for (let second = 7200; second < 7300; second += 1) series = withFrame(series, ...frame(second, 1, lanes), 60);
  expect(bytesIn(series.lanes)).toBe(size);
});
