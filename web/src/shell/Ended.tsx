import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useEffect, useRef } from 'react';
import { Problem, setCsrfToken } from '../api/client';
import { session } from '../api/queries';
import { Dialog } from '../parts/overlays';
import { useTexts } from '../text/language';
import { SignInForm } from './SignInForm';

/** Asks to sign in again, over the page, when the session has ended: what is written in the page stays. */
export function Ended() {
  const t = useTexts();
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
  if (!ended) return null;
  return (
    <Dialog title={t.signIn.ended}>
      <div className="stack signin-again">
        <p style={{ margin: 0 }}>{t.signIn.endedMeans}</p>
        <SignInForm
          next="/"
          beside
          begun={(found) => {
            setCsrfToken(found.csrf_token);
            queries.setQueryData(session.queryKey, found);
          }}
        />
      </div>
    </Dialog>
  );
}
