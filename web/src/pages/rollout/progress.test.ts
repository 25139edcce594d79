import { expect, it } from 'vitest';
import type { Schemas } from '../../api/client';
import { partsOf, reasonsOf } from './progress';

const progress = { agents: 100, reached: 50, having: 40, away: 2, failed: 5, failures: [], says: '' };
const rollout = (state: string, seen: unknown = progress) =>
  ({ state, progress: seen }) as unknown as Schemas['RolloutDocument'];

it('adds up to all agents', () => {
  const parts = partsOf(rollout('running'));
  expect(parts).toEqual({ agents: 100, applied: 40, failed: 5, away: 2, onItsWay: 3, notAsked: 50 });
  expect(partsOf(rollout('done')).applied).toBe(100);
  expect(partsOf(rollout('taken back'))).toMatchObject({ applied: 0, notAsked: 100 });
  expect(partsOf(rollout('running', null)).agents).toBe(0);
});

it('groups failures by their reason, the most frequent first', () => {
  const why = 'act_connmark is not loaded: load it.';
  expect(reasonsOf([`a/n1: ${why}`, 'a/n2: too small', `b/n3: shop/web-1: ${why}`])).toEqual([
    { why, agents: ['a/n1', 'b/n3'] },
    { why: 'too small', agents: ['a/n2'] },
  ]);
});
