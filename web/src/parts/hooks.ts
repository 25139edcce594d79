import { useQuery } from '@tanstack/react-query';
import { getRouteApi } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { type Role, session } from '../api/queries';

/** Milliseconds of Unix time, again and again. */
export function useNow(every: number): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

const tenantRoute = getRouteApi('/t/$tenant');

export function useTenant(): string {
  return tenantRoute.useParams().tenant;
}

const RANK: Role[] = ['viewer', 'editor', 'operator', 'administrator'];

/** Who has signed in, and what they may be shown: whether they may do it, the server decides again. */
export function useRole(): {
  role: Role | undefined;
  author: string;
  platform: boolean;
  may: (needed: Role) => boolean;
} {
  const tenant = useTenant();
  const { data } = useQuery(session);
  const platform = data?.roles.platform === 'administrator';
  const role = platform ? 'administrator' : data?.roles[tenant];
  return {
    role,
    author: data?.author ?? '',
    platform,
    may: (needed) => role !== undefined && RANK.indexOf(role) >= RANK.indexOf(needed),
  };
}

/** A value that has not changed for a while. */
export function useSettled<T>(value: T, wait: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), wait);
    return () => clearTimeout(timer);
  }, [value, wait]);
  return settled;
}
