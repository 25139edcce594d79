/** What somebody is writing: every step can be undone, also what was taken over from others. */
import { useCallback, useReducer } from 'react';
import { type PolicyDoc, same } from './model';

export interface Written {
  doc: PolicyDoc;
  selector: Record<string, string>;
  nodes: Record<string, string>;
}

interface State {
  now: Written;
  past: Written[];
  future: Written[];
  /** The version of the policy on which this is based, and what was there. */
  version: number;
  saved: Written;
}

type Action =
  /** `joined`: it goes on with the step before, as a handle does that is being drawn. */
  | { do: 'write'; next: Written; joined?: boolean }
  | { do: 'undo' }
  | { do: 'redo' }
  /** What is there now is another: what is written stays, unless `take`. */
  | { do: 'based'; version: number; saved: Written; take: boolean }
  /** What was sent is kept, as the control plane writes it (1500kbit is 1.5Mbit). What was written since then stays. */
  | { do: 'kept'; version: number; saved: Written; sent: Written };

const MOST = 200;

export function reduce(state: State, action: Action): State {
  switch (action.do) {
    case 'write':
      if (same(action.next, state.now)) return state;
      if (action.joined && state.past.length > 0) return { ...state, now: action.next, future: [] };
      return { ...state, now: action.next, past: [...state.past.slice(-MOST), state.now], future: [] };
    case 'undo': {
      const last = state.past[state.past.length - 1];
      return last
        ? { ...state, now: last, past: state.past.slice(0, -1), future: [state.now, ...state.future] }
        : state;
    }
    case 'redo': {
      const [next, ...rest] = state.future;
      return next ? { ...state, now: next, past: [...state.past, state.now], future: rest } : state;
    }
    case 'kept': {
      const { version, saved, sent } = action;
      return { ...state, version, saved, now: same(state.now, sent) ? saved : state.now };
    }
    case 'based': {
      const based = { ...state, version: action.version, saved: action.saved };
      return action.take ? reduce(based, { do: 'write', next: action.saved }) : based;
    }
  }
}

export function useEditor(version: number, saved: Written) {
  const [state, dispatch] = useReducer(reduce, { now: saved, past: [], future: [], version, saved });
  const write = useCallback((next: Written, joined = false) => dispatch({ do: 'write', next, joined }), []);
  return { ...state, dirty: !same(state.now, state.saved), write, dispatch };
}
