import { describe, expect, it } from 'vitest';
import { diffLines, nearChanges } from './diff';
import {
  bar,
  busiest,
  changesSince,
  defaultRate,
  drawn,
  type Lane,
  labelsOf,
  parseRate,
  placed,
  rateWords,
  stepOf,
  valuesOf,
  withMoved,
  withValue,
} from './model';
import { fromYaml, toYaml } from './yaml';

const DOC = {
  total: '100Mbit',
  classes: [
    { name: 'api', rate: '20Mbit', ceil: '60Mbit', match: [{ sni: ['api.example.com'] }] },
    { name: 'web', rate: '15Mbit', match: [{ port: [80, '8000-8100'] }] },
  ],
};

describe('rates', () => {
  it.each([
    ['20Mbit', 20e6],
    ['1.5 Gbit', 1.5e9],
    ['64kbit', 64000],
    [8000, 8000],
    ['1Mibit', 1048576],
    ['much', undefined],
    ['', undefined],
  ])('reads %s', (text, bits) => expect(parseRate(text)).toBe(bits));
  it('draws shares of the total', () => {
    expect(bar(DOC.classes[0] as Lane, 100e6)).toEqual({ rate: 0.2, ceil: 0.6 });
    expect(bar(DOC.classes[1] as Lane, 100e6)).toEqual({ rate: 0.15, ceil: 1 });
    expect(bar({ rate: '300Mbit', ceil: 'x' }, 100e6)).toEqual({ rate: 1, ceil: 1 });
  });
  it('knows what is left for the default lane', () => {
    expect(defaultRate(DOC)).toBe(1e6);
    expect(defaultRate({ total: '100Mbit', classes: [{ rate: '99.5Mbit' }] })).toBe(0.5e6);
    expect(defaultRate({ total: '1Mbit', default: { rate: '2kbit' } })).toBe(2000);
  });
});

describe('problems', () => {
  const problem = {
    path: 'classes[1].ceil',
    message: 'Class web cannot be held to 10 Mbit/s while 15 Mbit/s is guaranteed to it.',
    remedy: 'Lower the rate to 10Mbit or raise the ceil to 15Mbit.',
    mends: [],
  };
  it('belong to a lane or to the policy', () => {
    expect(placed(problem)).toMatchObject({ lane: 1, key: 'ceil' });
    expect(placed({ ...problem, path: 'classes[0].match[0].sni[0]' })).toMatchObject({ lane: 0, key: 'match' });
    expect(placed({ ...problem, path: 'total' })).toMatchObject({ lane: undefined, key: 'total' });
  });
  it('are mended by a value at a path', () => {
    expect(withValue(DOC, 'classes[0].rate', '10Mbit').classes.map((each) => each.rate)).toEqual(['10Mbit', '15Mbit']);
    expect(withValue(DOC, 'total', '115Mbit')).toEqual({ ...DOC, total: '115Mbit' });
    expect(withValue({ ...DOC, default: { ceil: '1Mbit' } }, 'default.rate', '8kbit').default).toEqual({
      ceil: '1Mbit',
      rate: '8kbit',
    });
    expect(withValue(DOC, 'classes[1].ingress.rate', '1Mbit').classes[1]).toMatchObject({ ingress: { rate: '1Mbit' } });
    expect(DOC.classes[0]?.rate).toBe('20Mbit');
  });
});

describe('handles', () => {
  const lane = { name: 'api', rate: '20Mbit', ceil: '60Mbit' };
  it('stop at steps that are round', () => {
    expect([100e6, 1e9, 3e6, 50].map(stepOf)).toEqual([1e6, 1e7, 2e4, 1]);
    expect(drawn(lane, 'rate', 23.4e6, 100e6)).toEqual({ rate: '23Mbit' });
    expect(drawn({ ...lane, ceil: undefined }, 'ceil', 1.25e9, 2.5e9)).toEqual({ ceil: '1.26Gbit' });
  });
  it('take the other one along, and stay within what there is', () => {
    expect(drawn(lane, 'rate', 70e6, 100e6)).toEqual({ rate: '70Mbit', ceil: '70Mbit' });
    expect(drawn(lane, 'ceil', 10e6, 100e6)).toEqual({ rate: '10Mbit', ceil: '10Mbit' });
    expect(drawn(lane, 'ceil', 300e6, 100e6)).toEqual({ ceil: '100Mbit' });
    expect(drawn(lane, 'rate', -5, 100e6)).toEqual({ rate: '8kbit' });
  });
  it('write what parses to the same', () => {
    for (const bits of [8000, 12.5e6, 1e9, 999.9e6, 64e3]) {
      expect(Math.abs((parseRate(rateWords(bits)) ?? 0) / bits - 1)).toBeLessThan(0.005);
    }
  });
});

describe('changes', () => {
  it('are counted by key, lane and order', () => {
    expect(changesSince(DOC, DOC)).toBe(0);
    expect(changesSince(DOC, null)).toBe(0);
    expect(changesSince({ ...DOC, total: '90Mbit' }, DOC)).toBe(1);
    expect(changesSince(withMoved(DOC, 0, 1), DOC)).toBe(1);
    expect(changesSince({ ...DOC, classes: DOC.classes.slice(1) }, DOC)).toBe(1);
  });
  it('are shown as lines, with what is near them', () => {
    const lines = diffLines('a\nb\nc\nd\ne\nf', 'a\nb\nc\nx\ne\nf');
    expect(lines.map((line) => line.kind[0]).join('')).toBe('sssrass');
    expect(nearChanges(lines, 1).map((line) => line.text)).toEqual(['…', 'c', 'd', 'x', 'e', '…']);
    expect(nearChanges(diffLines('a', 'a'))).toEqual([{ kind: 'gap', text: '…' }]);
  });
});

describe('what is written', () => {
  it('is the same document after YAML', () => {
    expect(fromYaml(toYaml(DOC))).toEqual({ doc: DOC });
  });
  it('is told by its line where it is no YAML', () => {
    expect(fromYaml('total: 1Mbit\nclasses: [')).toMatchObject({ line: 2 });
    expect(fromYaml('- 1')).toMatchObject({ line: 1 });
  });
  it('has numbers as numbers', () => {
    expect(valuesOf('80, 8000-8100 443')).toEqual([80, '8000-8100', 443]);
    expect(labelsOf('app=shop, tier=web')).toEqual({ app: 'shop', tier: 'web' });
    expect(labelsOf('app')).toBeUndefined();
  });
  it('is busy at its twentieth', () => {
    expect(busiest([])).toBeUndefined();
    expect(busiest(Array.from({ length: 100 }, (_, i) => i))).toBe(95);
  });
});
