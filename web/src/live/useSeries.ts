import { useEffect, useRef, useState } from 'react';
import type { Problem } from '../api/client';
import type { Asked, Standing } from './connection';
import { type Series, withFrame } from './frames';
import { live } from './shared';

export interface LiveSeries {
  series: Series | undefined;
  standing: Standing | undefined;
  problem: Problem | undefined;
}

/** A series as it comes. While `paused` it goes on arriving, and is shown when one goes on. Undefined: nothing yet. */
export function useSeries(asked: Asked | undefined, span: number, paused: boolean): LiveSeries {
  const [shown, setShown] = useState<LiveSeries>({ series: undefined, standing: undefined, problem: undefined });
  const pausedNow = useRef(paused);
  const arrived = useRef<Series | undefined>(undefined);
  pausedNow.current = paused;
  const key = asked && JSON.stringify(asked);
  useEffect(() => {
    arrived.current = undefined;
    setShown((now) => ({ ...now, series: undefined, problem: undefined }));
    if (key === undefined) return;
    return live.look(
      { ...(JSON.parse(key) as Asked), topic: 'series', seconds: span },
      (heard) => {
        if (heard.kind === 'problem') setShown((now) => ({ ...now, problem: heard.problem }));
        if (heard.kind !== 'series') return;
        arrived.current = withFrame(arrived.current, heard.head, heard.values, span);
        if (!pausedNow.current) setShown((now) => ({ ...now, series: arrived.current }));
      },
      (standing) => setShown((now) => ({ ...now, standing })),
    );
  }, [key, span]);
  useEffect(() => {
    if (!paused && arrived.current) setShown((now) => ({ ...now, series: arrived.current }));
  }, [paused]);
  return shown;
}
