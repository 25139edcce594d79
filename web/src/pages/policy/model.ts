/** A policy's document as the editor has it: JSON in the grammar of policy files. Pure. Only the server validates. */
import type { PolicyProblem } from '../../api/client';

export interface Match {
  [criterion: string]: unknown;
}

export interface Lane {
  name?: string;
  rate?: string | number;
  ceil?: string | number;
  priority?: string | number;
  match?: Match | Match[];
  [key: string]: unknown;
}

export interface PolicyDoc {
  total?: string | number;
  classes?: Lane[];
  default?: Lane;
  [key: string]: unknown;
}

export const CRITERIA = [
  'sni',
  'host',
  'port',
  'cidr',
  'application',
  'protocol',
  'alpn',
  'source',
  'direction',
] as const;

const RATE = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(?:bit|bps)?(?:\/s)?\s*$/i;
const POWERS: Record<string, number> = { '': 0, k: 1, m: 2, g: 3, t: 4 };

/** Bit/s, to draw with; undefined: it is not for us to say what is wrong with it. */
export function parseRate(value: unknown): number | undefined {
  if (typeof value === 'number') return value;
  const found = RATE.exec(String(value ?? ''));
  if (!found) return undefined;
  const [, number = '', unit = '', binary = ''] = found;
  return Number(number) * (binary ? 1024 : 1000) ** (POWERS[unit.toLowerCase()] ?? 0);
}

export interface Bar {
  rate: number;
  ceil: number;
}

/** Guarantee and ceiling as shares of the total, from 0 to 1. */
export function bar(lane: Lane, total: number): Bar {
  const share = (value: unknown, otherwise: number) =>
    Math.min(1, Math.max(0, (parseRate(value) ?? otherwise) / (total || 1)));
  const rate = share(lane.rate, 0);
  return { rate, ceil: lane.ceil === undefined ? 1 : share(lane.ceil, total) };
}

export function lanesOf(doc: PolicyDoc): Lane[] {
  return Array.isArray(doc.classes) ? doc.classes : [];
}

/** The guarantee of the default lane, as docs/reference/policy.md has it: 1 % where none is written, or what is left. */
export function defaultRate(doc: PolicyDoc): number {
  const total = parseRate(doc.total) ?? 0;
  const written = parseRate(doc.default?.rate);
  if (written !== undefined) return written;
  const taken = lanesOf(doc).reduce((sum, lane) => sum + (parseRate(lane.rate) ?? 0), 0);
  return Math.max(0, Math.min(Math.max(total / 100, 8000), total - taken));
}

export function matchesOf(lane: Lane): Match[] {
  return Array.isArray(lane.match) ? lane.match : lane.match ? [lane.match] : [];
}

/** The values of a criterion as they are written in one line. */
export function wordsOf(value: unknown): string {
  return Array.isArray(value) ? value.join(', ') : String(value);
}

/** What somebody has written in one line: numbers are numbers, as in a policy file. */
export function valuesOf(words: string): (string | number)[] {
  return words
    .split(/[\s,]+/)
    .filter(Boolean)
    .map((word) => (/^\d+$/.test(word) ? Number(word) : word));
}

/** The document with another lane at a place. A key whose value is undefined is left out. */
export function withLane(doc: PolicyDoc, at: number, change: Partial<Lane>): PolicyDoc {
  return {
    ...doc,
    classes: lanesOf(doc).map((lane, index) => (index === at ? cleaned({ ...lane, ...change }) : lane)),
  };
}

export function withoutLane(doc: PolicyDoc, at: number): PolicyDoc {
  return { ...doc, classes: lanesOf(doc).filter((_, index) => index !== at) };
}

export function withMoved(doc: PolicyDoc, from: number, to: number): PolicyDoc {
  const lanes = [...lanesOf(doc)];
  const [moved] = lanes.splice(from, 1);
  if (moved) lanes.splice(to, 0, moved);
  return { ...doc, classes: lanes };
}

export function cleaned<T extends object>(given: T): T {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as T;
}

export interface Placed extends PolicyProblem {
  /** Index of the lane; undefined: it is of the whole policy. */
  lane: number | undefined;
  /** The first key below it, as rate. */
  key: string;
}

/** Where a problem belongs, by its path: classes[2].match[0].sni[1]. */
export function placed(problem: PolicyProblem): Placed {
  const found = /^classes\[(\d+)\](?:\.(\w+))?/.exec(problem.path);
  if (found) return { ...problem, lane: Number(found[1]), key: found[2] ?? '' };
  return { ...problem, lane: undefined, key: /^\w*/.exec(problem.path)?.[0] ?? '' };
}

/** The document with another value at a path of the server's: classes[2].ingress.rate. */
export function withValue<T>(doc: T, path: string, value: unknown): T {
  const [, key = '', rest = ''] = /^\[?([^.[\]]+)\]?\.?(.*)$/.exec(path) ?? [];
  const next = rest ? withValue((doc as Record<string, unknown>)[key] ?? {}, rest, value) : value;
  if (Array.isArray(doc)) return doc.map((each, at) => (at === Number(key) ? next : each)) as T;
  return { ...doc, [key]: next };
}

/** A rate in the words of a policy, to three digits that count: 12.5Mbit. */
export function rateWords(bits: number): string {
  const units = ['bit', 'kbit', 'Mbit', 'Gbit', 'Tbit'];
  const rounded = Number(Math.max(0, bits).toPrecision(3));
  let power = 0;
  while (power < units.length - 1 && rounded >= 1000 ** (power + 1)) power += 1;
  return `${Number((rounded / 1000 ** power).toPrecision(3))}${units[power]}`;
}

const LEAST = 8000;

/** How far a key moves a handle: a hundredth of the total or less, as one, two or five of something. */
export function stepOf(total: number): number {
  const most = Math.max(total / 100, 1);
  const size = 10 ** Math.floor(Math.log10(most));
  return size * (most >= 5 * size ? 5 : most >= 2 * size ? 2 : 1);
}

/** A lane whose guarantee or ceiling has been drawn to a place. The other one goes with it where they meet. */
export function drawn(lane: Lane, key: 'rate' | 'ceil', bits: number, total: number): Partial<Lane> {
  const step = stepOf(total);
  const to = Math.max(LEAST, Math.min(total, Math.round(bits / step) * step));
  const rate = parseRate(lane.rate) ?? 0;
  const ceil = lane.ceil === undefined ? total : (parseRate(lane.ceil) ?? total);
  if (key === 'rate') return { rate: rateWords(to), ...(to > ceil ? { ceil: rateWords(to) } : {}) };
  return { ceil: rateWords(to), ...(to < rate ? { rate: rateWords(to) } : {}) };
}

/** How many lanes and keys differ from what is in force. */
export function changesSince(doc: PolicyDoc, before: PolicyDoc | null): number {
  if (!before) return 0;
  const old = new Map(lanesOf(before).map((lane) => [lane.name, lane]));
  let found = 0;
  for (const lane of lanesOf(doc)) {
    const was = old.get(lane.name);
    old.delete(lane.name);
    if (!was) found += 1;
    else
      for (const key of new Set([...Object.keys(lane), ...Object.keys(was)]))
        found += same(lane[key], was[key]) ? 0 : 1;
  }
  found += old.size;
  for (const key of new Set([...Object.keys(doc), ...Object.keys(before)])) {
    if (key !== 'classes') found += same(doc[key], before[key]) ? 0 : 1;
  }
  const names = (of: PolicyDoc) =>
    lanesOf(of)
      .map((lane) => lane.name)
      .join('\n');
  return found || (names(doc) === names(before) ? 0 : 1);
}

export function same(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** A value that the greatest twentieth of all exceeds. */
export function busiest(values: number[]): number | undefined {
  if (values.length === 0) return undefined;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.95))];
}

/** Labels as they are written in one line: app=shop, tier=web. Undefined: it is none. */
export function labelsOf(text: string): Record<string, string> | undefined {
  const labels: Record<string, string> = {};
  for (const word of text.split(/[\s,]+/).filter(Boolean)) {
    const [key, value, more] = word.split('=');
    if (!key || value === undefined || more !== undefined) return undefined;
    labels[key] = value;
  }
  return labels;
}

export function labelWords(labels: Record<string, string>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(', ');
}
