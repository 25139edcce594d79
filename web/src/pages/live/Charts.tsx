/** Charts on a canvas: their colours are read again when the theme changes, and each has its words and a table. */
import { useComputedColorScheme } from '@mantine/core';
import { useEffect, useLayoutEffect, useRef } from 'react';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { rateUnit, short } from '../../parts/format';

/** Pixels that the words of a marker need. */
const NEAR = 96;
/** How far from the screen a box may be whose chart is drawn. */
const NEARLY = '300px';
const FONT = "11px 'Inter Variable'";

/** Colours that were read, by theme and name: to read one has the browser work out all styles that have changed. */
const read = new Map<string, string>();

function css(name: string): string {
  const root = document.documentElement;
  const key = `${root.dataset.mantineColorScheme} ${name}`;
  let found = read.get(key);
  if (found === undefined) {
    found = getComputedStyle(root)
      .getPropertyValue(name.startsWith('var(') ? name.slice(4, -1) : name)
      .trim();
    read.set(key, found);
  }
  return found;
}

function axis(more: Partial<uPlot.Axis>): uPlot.Axis {
  return {
    stroke: css('--ink3'),
    font: FONT,
    grid: { stroke: css('--line2'), width: 1 },
    ticks: { show: false },
    ...more,
  };
}

const clock = (_: uPlot, values: number[]) =>
  values.map((value) => new Date(value * 1000).toLocaleTimeString('en-GB').slice(0, 8));

/** A chart in a box, which is made and drawn while the box is on the screen, or nearly. */
function useChart(build: (width: number) => uPlot.Options, data: uPlot.AlignedData, height: number, shape: string) {
  const box = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot | undefined>(undefined);
  const near = useRef(false);
  const scheme = useComputedColorScheme('light', { getInitialValueInEffect: false });
  const latest = useRef(data);
  latest.current = data;
  const make = useRef(build);
  make.current = build;
  // biome-ignore lint/correctness/useExhaustiveDependencies: made anew when the theme or the lanes change, not with data
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    // What it is told has been worked out: to ask an element for its width would do so for each chart.
    const seen = new IntersectionObserver(
      (entries) => {
        const { isIntersecting, boundingClientRect } = entries.at(-1) as IntersectionObserverEntry;
        near.current = isIntersecting;
        if (!isIntersecting) return;
        if (chart.current) chart.current.setData(latest.current);
        else chart.current = new uPlot(make.current(boundingClientRect.width), latest.current, element);
      },
      { rootMargin: NEARLY },
    );
    seen.observe(element);
    const resized = new ResizeObserver(([entry]) => {
      const made = chart.current;
      const width = entry?.contentRect.width;
      if (made && width && width !== made.width) made.setSize({ width, height });
    });
    resized.observe(element);
    return () => {
      seen.disconnect();
      resized.disconnect();
      chart.current?.destroy();
      chart.current = undefined;
    };
  }, [scheme, shape, height]);
  useEffect(() => {
    if (near.current) chart.current?.setData(data);
  }, [data]);
  return box;
}

export interface Drawn {
  name: string;
  color: string;
  bits: ArrayLike<number>;
}

export interface Marker {
  at: number;
  says: string;
}

/** All lanes on top of each other: the first is at the bottom. */
export function Stacked({
  times,
  lanes,
  markers,
  label,
  height,
}: {
  times: number[];
  lanes: Drawn[];
  markers: Marker[];
  label: string;
  height: number;
}) {
  const sums: number[][] = [];
  lanes.forEach((lane, at) => {
    sums.push(
      times.map(
        (_, second) => (sums[at - 1]?.[second] ?? 0) + (Number.isNaN(lane.bits[second]) ? 0 : (lane.bits[second] ?? 0)),
      ),
    );
  });
  const marked = useRef(markers);
  marked.current = markers;
  const build = (width: number): uPlot.Options => ({
    width,
    height,
    legend: { show: false },
    padding: [14, 14, 0, 0],
    cursor: { y: false, points: { show: false } },
    scales: { y: { range: (_, __, top) => [0, Math.max(1000, top * 1.08)] } },
    axes: [axis({ values: clock, size: 26, space: 80 }), axis({ size: 62, values: (_, values) => values.map(tick) })],
    series: [
      {},
      ...[...lanes].reverse().map((lane) => ({
        label: lane.name,
        stroke: css('--panel'),
        width: 1,
        fill: css(lane.color),
        points: { show: false },
      })),
    ],
    hooks: { draw: [(drawn) => drawMarkers(drawn, marked.current)] },
  });
  // A second of which nothing is known is a gap, and not one in which nothing was sent.
  const known = times.map((_, second) => lanes.some((lane) => !Number.isNaN(lane.bits[second])));
  const drawn = sums.map((values) => values.map((value, second) => (known[second] ? value : null)));
  const data = [times, ...drawn.reverse()] as uPlot.AlignedData;
  const box = useChart(build, data, height, lanes.map((lane) => lane.name + lane.color).join());
  return <div ref={box} role="img" aria-label={label} style={{ height, minWidth: 0 }} />;
}

function drawMarkers(chart: uPlot, markers: Marker[]): void {
  const context = chart.ctx;
  const ratio = devicePixelRatio;
  const { left, top, width, height } = chart.bbox;
  context.save();
  context.strokeStyle = css('--ink');
  context.fillStyle = css('--ink');
  context.font = `600 ${11 * ratio}px 'Inter Variable'`;
  context.setLineDash([4 * ratio, 3 * ratio]);
  let drawn = Number.POSITIVE_INFINITY;
  // The newest first: what is so near to it that its words would be on top of others is left out.
  for (const marker of [...markers].sort((a, b) => b.at - a.at)) {
    const x = chart.valToPos(marker.at, 'x', true);
    if (x < left || x > left + width || drawn - x < NEAR * ratio) continue;
    drawn = x;
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
    context.textAlign = x > left + width / 2 ? 'right' : 'left';
    context.fillText(marker.says, x + (x > left + width / 2 ? -5 : 5) * ratio, top - 3 * ratio);
  }
  context.restore();
}

/** One lane, with its guarantee (dashed) and its ceiling (solid). */
export function Mini({
  times,
  lane,
  rate,
  ceil,
  label,
}: {
  times: number[];
  lane: Drawn;
  rate: ArrayLike<number>;
  ceil: ArrayLike<number>;
  label: string;
}) {
  const height = 74;
  const build = (width: number): uPlot.Options => {
    const color = css(lane.color);
    const stepped = uPlot.paths.stepped?.({ align: 1 });
    return {
      width,
      height,
      legend: { show: false },
      padding: [4, 4, 0, 0],
      cursor: { show: false },
      scales: { y: { range: (_, __, top) => [0, Math.max(1000, top * 1.12)] } },
      axes: [
        axis({ values: (chart, values) => clock(chart, values).map((each) => each.slice(0, 5)), size: 20, space: 70 }),
        axis({ size: 54, space: 22, values: (_, values) => values.map(tick) }),
      ],
      series: [
        {},
        { stroke: color, width: 1.6, fill: `${color}33`, points: { show: false } },
        { stroke: css('--ink'), width: 1, dash: [4, 3], paths: stepped, points: { show: false } },
        { stroke: css('--ink'), width: 1.2, paths: stepped, points: { show: false } },
      ],
    };
  };
  const data = [times, lane.bits, rate, ceil].map((each) =>
    Array.from(each, (value) => (Number.isNaN(value) ? null : value)),
  ) as uPlot.AlignedData;
  const box = useChart(build, data, height, lane.name + lane.color);
  return <div ref={box} role="img" aria-label={label} style={{ height, minWidth: 0 }} />;
}

function tick(bits: number): string {
  const { unit, size } = rateUnit(bits);
  return bits ? `${short(bits / size)} ${unit.slice(0, -5) || ''}bit` : '0';
}
