import { useEffect, useState } from 'react';
import type { Problem } from '../api/client';
import type { Asked, Standing } from './connection';
import { live } from './shared';

/** A part of a list as the control plane sends it, whole each time: docs/reference/live.md. */
export interface LiveWindow<Row, Totals> {
  /** Unix seconds. */
  at: number;
  /** How many rows the filter leaves; `rows` are those of them that were asked for. */
  total: number;
  rows: Row[];
  totals: Totals;
}

export interface LiveList<Row, Totals> {
  window: LiveWindow<Row, Totals> | undefined;
  standing: Standing | undefined;
  problem: Problem | undefined;
}

/** A list as it is now, again and again. What is asked anew is shown when it has come, and what was there until then. */
export function useWindow<Row, Totals>(asked: Asked): LiveList<Row, Totals> {
  const [shown, setShown] = useState<LiveList<Row, Totals>>({
    window: undefined,
    standing: undefined,
    problem: undefined,
  });
  const key = JSON.stringify(asked);
  useEffect(() => {
    setShown((now) => ({ ...now, problem: undefined }));
    return live.look(
      JSON.parse(key) as Asked,
      (heard) => {
        if (heard.kind === 'problem') setShown((now) => ({ ...now, problem: heard.problem }));
        if (heard.kind !== 'message' || heard.message.type !== 'window') return;
        const window = heard.message as unknown as LiveWindow<Row, Totals>;
        setShown((now) => ({ ...now, window }));
      },
      (standing) => setShown((now) => ({ ...now, standing })),
    );
  }, [key]);
  return shown;
}
