import { useEffect, useRef, useState } from 'react';
import type { Problem } from '../api/client';
import { type Asked, LiveConnection, type Standing } from './connection';
import { type Series, withFrame } from './frames';

export interface LiveSeries {
  series: Series | undefined;
  standing: Standing | undefined;
  problem: Problem | undefined;
}

/** A series as it comes. While `paused` it goes on arriving, and is shown when one goes on. */
export function useSeries(asked: Asked, span: number, paused: boolean): LiveSeries {
  const [shown, setShown] = useState<LiveSeries>({ series: undefined, standing: undefined, problem: undefined });
  const pausedNow = useRef(paused);
  const arrived = useRef<Series | undefined>(undefined);
  pausedNow.current = paused;
  const key = JSON.stringify(asked);
  useEffect(() => {
    arrived.current = undefined;
    setShown((now) => ({ ...now, series: undefined, problem: undefined }));
    const connection = new LiveConnection((standing) => setShown((now) => ({ ...now, standing })));
    connection.subscribe({ ...(JSON.parse(key) as Asked), topic: 'series', seconds: span }, (heard) => {
      if (heard.kind === 'problem') setShown((now) => ({ ...now, problem: heard.problem }));
      if (heard.kind !== 'series') return;
      arrived.current = withFrame(arrived.current, heard.head, heard.values, span);
      if (!pausedNow.current) setShown((now) => ({ ...now, series: arrived.current }));
    });
    return () => connection.close();
  }, [key, span]);
  useEffect(() => {
    if (!paused && arrived.current) setShown((now) => ({ ...now, series: arrived.current }));
  }, [paused]);
  return shown;
}
