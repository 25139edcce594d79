import { expect, it } from 'vitest';
import { inForceOf, placeOf } from './inForce';

it('says who has decided what is in force', () => {
  expect(inForceOf({ fleet_policy: 'shop' }).origin).toEqual({ from: 'fleet', name: 'shop' });
  const cluster = { fleet_policy: null, cluster_policy: 'TrafficPolicy shop/web, generation 3' };
  expect(inForceOf(cluster).origin).toEqual({ from: 'cluster', name: 'TrafficPolicy shop/web, generation 3' });
  expect(inForceOf({}).origin).toEqual({ from: 'own' });
});

it('takes answers of any version of the agent', () => {
  const policy = { total: '10Mbit', classes: [] };
  const known = { name: 'shop/web', state: 'programmed', policy, warnings: ['One.'], lost: ['a filter'], new: 1 };
  expect(inForceOf(known)).toMatchObject({ workload: 'shop/web', policy, warnings: ['One.'], lost: ['a filter'] });
  expect(inForceOf({ policy: 'text', warnings: null, state: 3 })).toMatchObject({
    policy: null,
    warnings: [],
    state: '',
  });
});

it('shows as texts what an agent says of lanes, whatever that is', () => {
  const web = { name: 'web', rate: '15Mbit', ceil: 5e7, priority: null };
  const found = inForceOf({ policy: { total: { no: 'rate' }, classes: [web, null, 'text', { name: ['a'] }] } });
  expect([found.total, found.lanes]).toEqual([
    '–',
    [
      { name: 'web', rate: '15Mbit', ceil: '50000000', priority: '–' },
      { name: '–', rate: '–', ceil: '–', priority: '–' },
    ],
  ]);
});

it('has the origin of each value, and what does not count', () => {
  const total = { what: 'total', value: '50Mbit', from: 'total of the control plane’s policy' };
  expect(inForceOf({ values: [total, 'text', { what: 3 }], overruled: ['One.'] })).toMatchObject({
    values: [total, { what: '3', value: '–', from: '–' }],
    overruled: ['One.'],
  });
  expect(inForceOf({})).toMatchObject({ values: [], overruled: [] });
});

it('reads where an agent is', () => {
  expect(placeOf(' fra1/fra1-w001 ')).toEqual({ cluster: 'fra1', node: 'fra1-w001' });
  expect(['fra1', 'fra1/', '/n', 'a/b/c'].map(placeOf)).toEqual(Array(4).fill(undefined));
});
