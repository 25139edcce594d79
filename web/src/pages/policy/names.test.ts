import { describe, expect, it } from 'vitest';
import type { PolicyDoc } from './model';
import {
  completed,
  completions,
  few,
  hitsByPlace,
  hitsOfLane,
  hitsPlace,
  laneFor,
  type SeenName,
  unsorted,
  withLaneFor,
  withName,
} from './names';

const seen = (name: string, change: Partial<SeenName> = {}): SeenName => ({
  name,
  kind: 'sni',
  protocol: 'tls',
  port: 443,
  direction: 'outbound',
  cluster: 'fra1',
  namespace: 'shop',
  policy: 'web',
  lane: 'default',
  decided: 'default',
  connections: 10,
  last_seen: 1,
  workload: 'shop/a',
  ...change,
});

const doc: PolicyDoc = {
  total: '10Mbit',
  classes: [
    { name: 'api', match: [{ sni: ['api.example.com', '*.api.example.com'], port: [443] }, { sni: ['b.example'] }] },
    { name: 'web', match: [{ port: [80] }] },
  ],
};

describe('names and lanes', () => {
  it('finds the lane that asks for a name', () => {
    expect(laneFor(doc, seen('api.example.com'))).toBe(0);
    expect(laneFor(doc, seen('eu.api.example.com'))).toBe(0);
    expect(laneFor(doc, seen('xapi.example.com'))).toBeUndefined();
    expect(laneFor(doc, seen('api.example.com', { kind: 'host' }))).toBeUndefined();
  });

  it('lists what no lane asks for', () => {
    const all = [seen('api.example.com'), seen('new.example'), seen('old.example', { decided: 'name' })];
    expect(unsorted(doc, all).map((each) => each.name)).toEqual(['new.example']);
  });

  it('puts a name to the names of a lane, or makes a match of it', () => {
    expect(withName(doc, 0, seen('c.example')).classes?.[0]?.match).toEqual([
      { sni: ['api.example.com', '*.api.example.com'], port: [443] },
      { sni: ['b.example', 'c.example'] },
    ]);
    expect(withName(doc, 1, seen('h.example', { kind: 'host' })).classes?.[1]?.match).toEqual([
      { port: [80] },
      { host: ['h.example'] },
    ]);
    expect(withName(doc, 0, seen('d.example', { direction: 'inbound' })).classes?.[0]?.match).toContainEqual({
      sni: ['d.example'],
      direction: 'inbound',
    });
    expect(unsorted(withName(doc, 1, seen('new.example')), [seen('new.example')])).toEqual([]);
  });

  it('gives a name a lane of its own', () => {
    const made = withLaneFor(doc, 'lane-3', seen('new.example'));
    expect(made.classes?.[2]).toEqual({ name: 'lane-3', rate: '1Mbit', match: [{ sni: ['new.example'] }] });
  });
});

describe('hits', () => {
  const hits = hitsByPlace({
    policy: 'web',
    revision: 1,
    matches: [
      { lane: 'api', match: { port: [443], sni: ['api.example.com', '*.api.example.com'] }, connections: 31_000 },
      { lane: 'default', match: null, connections: 7 },
    ],
  });

  it('belong to matches that ask for the same, in whatever order it is written', () => {
    expect(hits.get(hitsPlace('api', { sni: ['api.example.com', '*.api.example.com'], port: [443] }))).toBe(31_000);
    expect(hits.get(hitsPlace('web', { sni: ['api.example.com', '*.api.example.com'], port: [443] }))).toBeUndefined();
    expect(hits.get(hitsPlace('default', null))).toBe(7);
    expect(hitsOfLane(hits, doc.classes?.[0] ?? {})).toBe(31_000);
  });

  it('are short', () => {
    expect([0, 212, 999, 1000, 6840, 31_400, 1_200_000].map(few)).toEqual([
      '0',
      '212',
      '999',
      '1k',
      '6.8k',
      '31.4k',
      '1.2M',
    ]);
  });
});

describe('completion', () => {
  const names = [seen('api.example.com'), seen('cdn.example.com'), seen('www.example.com', { kind: 'host' })];

  it('is of the criterion, and of the last word', () => {
    expect(completions(names, 'sni', '')).toEqual(['api.example.com', 'cdn.example.com']);
    expect(completions(names, 'sni', 'api.example.com, cd')).toEqual(['cdn.example.com']);
    expect(completions(names, 'sni', 'api.example.com')).toEqual(['cdn.example.com']);
    expect(completions(names, 'sni', 'zz')).toEqual([]);
    expect(completions(names, 'host', 'ww')).toEqual(['www.example.com']);
    expect(completions(names, 'port', '4')).toEqual([]);
  });

  it('takes the place of what was begun', () => {
    expect(completed('api.example.com, cd', 'cdn.example.com')).toBe('api.example.com, cdn.example.com');
    expect(completed('api.example.com, ', 'cdn.example.com')).toBe('api.example.com, cdn.example.com');
    expect(completed('', 'cdn.example.com')).toBe('cdn.example.com');
  });
});
