/** Names that connections had, and the lanes of a draft. Pure. */
import type { Schemas } from '../../api/client';
import { type Lane, lanesOf, type Match, matchesOf, type PolicyDoc, same, valuesOf, withLane } from './model';

export type SeenName = Schemas['SeenNameDocument'];

/** Of something that is drawn, beside lanes. */
export const DRAWN_NAME = 'name:';

export function nameId(seen: SeenName): string {
  const { cluster, namespace, policy, protocol, port, direction, name } = seen;
  return DRAWN_NAME + [cluster, namespace, policy, protocol, port, direction, name].join(' ');
}

/** Where the hits of a match are found: matches that ask for the same have the same place in a lane. */
export function hitsPlace(lane: string | undefined, match: Match | null | undefined): string {
  return `${lane ?? ''}\n${match ? JSON.stringify(Object.entries(match).sort(([a], [b]) => (a < b ? -1 : 1))) : ''}`;
}

export function hitsByPlace(hits: Schemas['HitsDocument'] | undefined): Map<string, number> {
  return new Map(hits?.matches.map((each) => [hitsPlace(each.lane, each.match), each.connections]));
}

/** How many connections all matches of a lane have taken. */
export function hitsOfLane(hits: Map<string, number>, lane: Lane): number {
  return matchesOf(lane).reduce((sum, match) => sum + (hits.get(hitsPlace(lane.name, match)) ?? 0), 0);
}

/** Whether its first bytes are read for it: others are not counted everywhere. */
export function readsNames(match: Match): boolean {
  return ['sni', 'host', 'alpn'].some((key) => match[key] !== undefined);
}

function listed(value: unknown): string[] {
  if (Array.isArray(value)) return value.map(String);
  return value === undefined ? [] : valuesOf(String(value)).map(String);
}

function meant(pattern: string, name: string): boolean {
  return pattern.startsWith('*.') ? name.endsWith(pattern.slice(1)) : pattern === name;
}

/** The index of the lane of a draft that asks for a name; undefined: none does. Which one takes it, the server says. */
export function laneFor(doc: PolicyDoc, seen: Pick<SeenName, 'kind' | 'name'>): number | undefined {
  const at = lanesOf(doc).findIndex((lane) =>
    matchesOf(lane).some((match) => listed(match[seen.kind]).some((pattern) => meant(pattern, seen.name))),
  );
  return at < 0 ? undefined : at;
}

/** Names that no lane of the draft asks for. */
export function unsorted(doc: PolicyDoc, seen: SeenName[]): SeenName[] {
  return seen.filter((each) => each.decided !== 'name' && laneFor(doc, each) === undefined);
}

/** The document with a name in a lane: with the names that are there, or as a match of its own. */
export function withName(doc: PolicyDoc, at: number, seen: Pick<SeenName, 'kind' | 'name' | 'direction'>): PolicyDoc {
  const lane = lanesOf(doc)[at];
  if (!lane) return doc;
  const fresh: Match = {
    [seen.kind]: [seen.name],
    ...(seen.direction === 'inbound' ? { direction: 'inbound' } : {}),
  };
  const matches = matchesOf(lane);
  const alike = matches.findIndex(
    (match) => same(Object.keys(match).sort(), Object.keys(fresh).sort()) && same(match.direction, fresh.direction),
  );
  const match =
    alike < 0
      ? [...matches, fresh]
      : matches.map((each, index) =>
          index === alike ? { ...each, [seen.kind]: [...listed(each[seen.kind]), seen.name] } : each,
        );
  return withLane(doc, at, { match });
}

/** The document with one more lane, last, for a name. */
export function withLaneFor(doc: PolicyDoc, name: string, seen: SeenName): PolicyDoc {
  const lanes = lanesOf(doc);
  return withName({ ...doc, classes: [...lanes, { name, rate: '1Mbit', match: [] }] }, lanes.length, seen);
}

/** Names that begin as the last word does, those that are seen most first; those that are written are left out. */
export function completions(names: SeenName[], key: string, words: string, most = 6): string[] {
  if (key !== 'sni' && key !== 'host') return [];
  const written = valuesOf(words).map(String);
  const last = /[\s,]$/.test(words) ? '' : (written[written.length - 1] ?? '');
  const others = names.filter((each) => each.kind === key && !written.includes(each.name));
  const begun = others.filter((each) => each.name.includes(last.toLowerCase()));
  // A word that is complete is not gone on with: others may follow it.
  const complete = last.startsWith('*.') || names.some((each) => each.name === last);
  const found = begun.length === 0 && complete ? others : begun;
  return [...new Set(found.map((each) => each.name))].slice(0, most);
}

/** What is written, with a name in the place of the word that it completes. */
export function completed(words: string, name: string): string {
  const written = valuesOf(words).map(String);
  const last = written[written.length - 1];
  const begun = last !== undefined && !/[\s,]$/.test(words) && name.includes(last.toLowerCase());
  return [...(begun ? written.slice(0, -1) : written), name].join(', ');
}

/** A number as a chip has room for it: 212, 6.8k, 31k, 1.2M. */
export function few(count: number): string {
  if (count < 1000) return String(count);
  const [size, unit] = count < 1_000_000 ? [1000, 'k'] : [1_000_000, 'M'];
  return `${Number((count / size).toPrecision(count / size < 10 ? 2 : 3)).toLocaleString('en', { maximumFractionDigits: 1 })}${unit}`;
}

/** A policy that limits nothing below its total, and yet has names read: matches by names that nobody has (RFC 2606). */
export const OBSERVING: Lane = {
  name: 'names',
  rate: '8kbit',
  match: [{ sni: ['read-names.invalid'] }, { host: ['read-names.invalid'] }],
};
