import { expect, it } from 'vitest';
import { reduce } from './useEditor';

const written = (total: string) => ({ doc: { total }, selector: {}, nodes: {} });
const START = { now: written('1Mbit'), past: [], future: [], version: 3, saved: written('1Mbit') };

it('undoes and redoes each step, and forgets what was undone when something else is written', () => {
  let state = reduce(START, { do: 'write', next: written('2Mbit') });
  state = reduce(state, { do: 'write', next: written('3Mbit') });
  state = reduce(state, { do: 'undo' });
  expect(state.now).toEqual(written('2Mbit'));
  expect(reduce(state, { do: 'redo' }).now).toEqual(written('3Mbit'));
  state = reduce(state, { do: 'write', next: written('4Mbit') });
  expect(reduce(state, { do: 'redo' }).now).toEqual(written('4Mbit'));
  expect(reduce(reduce(state, { do: 'undo' }), { do: 'undo' }).now).toEqual(written('1Mbit'));
});

it('takes what it has saved as the control plane writes it, unless more was written', () => {
  const sent = written('1500kbit');
  const mine = reduce(START, { do: 'write', next: sent });
  const kept = reduce(mine, { do: 'kept', version: 4, saved: written('1.5Mbit'), sent });
  expect([kept.now, kept.saved, kept.version]).toEqual([written('1.5Mbit'), written('1.5Mbit'), 4]);
  expect(reduce(kept, { do: 'undo' }).now).toEqual(written('1Mbit'));
  const more = reduce(mine, { do: 'write', next: written('2Mbit') });
  expect(reduce(more, { do: 'kept', version: 4, saved: written('1.5Mbit'), sent }).now).toEqual(written('2Mbit'));
});

it('loses nothing when somebody else has saved', () => {
  const mine = reduce(START, { do: 'write', next: written('2Mbit') });
  const kept = reduce(mine, { do: 'based', version: 4, saved: written('9Mbit'), take: false });
  expect([kept.now, kept.version]).toEqual([written('2Mbit'), 4]);
  const taken = reduce(mine, { do: 'based', version: 4, saved: written('9Mbit'), take: true });
  expect(taken.now).toEqual(written('9Mbit'));
  expect(reduce(taken, { do: 'undo' }).now).toEqual(written('2Mbit'));
});
