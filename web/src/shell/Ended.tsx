import { useQuery, useQueryClient } from '@tanstack/react-query';
import { lazy, Suspense, useEffect, useRef } from 'react';
import { Problem } from '../api/client';
import { session } from '../api/queries';

const SignInAgain = lazy(() => import('./SignInAgain').then((found) => ({ default: found.SignInAgain })));

/** Asks to sign in again, over the page, when the session has ended: what is written in the page stays. */
export function Ended() {
  const queries = useQueryClient();
  const { error } = useQuery(session);
  const ended = error instanceof Problem && error.status === 401;
  const before = useRef(ended);
  useEffect(() => {
    // Whoever it is now: all that is shown is read again. It may have been signed in to in another tab, too.
    if (before.current && !ended)
      void queries.invalidateQueries({ predicate: (each) => each.queryKey[0] !== 'session' });
    before.current = ended;
  }, [ended, queries]);
  return <Suspense fallback={null}>{ended && <SignInAgain />}</Suspense>;
}
