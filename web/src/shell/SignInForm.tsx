import { IconBuilding, IconKey } from '@tabler/icons-react';
import { useMutation, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { api, body } from '../api/client';
import { type Session, signInWays } from '../api/queries';
import { ProblemNote } from '../parts/parts';
import { useTexts } from '../text/language';

interface SignInProps {
  begun: (session: Session) => unknown;
  /** Where the identity provider leads back to. */
  next: string;
  /** In another tab: this one has what may not be lost. */
  beside?: boolean;
}

/** The ways to begin a session. */
export function SignInForm({ begun, next, beside = false }: SignInProps) {
  const t = useTexts();
  const ways = useQuery(signInWays);
  const [token, setToken] = useState('');
  const begin = useMutation({
    mutationFn: () => body(api.POST('/v1/session', { headers: { Authorization: `Bearer ${token.trim()}` } })),
    onSuccess: begun,
  });
  return (
    <>
      {ways.data?.provider && (
        <>
          <a
            className="btn primary"
            href={`/v1/login?next=${encodeURIComponent(next)}`}
            {...(beside ? { target: '_blank', rel: 'noopener' } : {})}
          >
            <IconBuilding size={17} />
            {beside ? t.signIn.providerBeside : t.signIn.provider}
          </a>
          <div className="rule">{t.signIn.or}</div>
        </>
      )}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          begin.mutate();
        }}
      >
        <div className="field">
          <label htmlFor="token">{t.signIn.token}</label>
          <input
            id="token"
            data-autofocus
            className="input mono"
            type="password"
            autoComplete="current-password"
            placeholder={t.signIn.placeholder}
            required
            value={token}
            onChange={(event) => setToken(event.target.value)}
            aria-describedby="kept"
          />
          <span className="sub" id="kept">
            {t.signIn.kept}
          </span>
        </div>
        {begin.isError && <ProblemNote error={begin.error} />}
        <button type="submit" className={`btn ${ways.data?.provider ? '' : 'primary'}`} disabled={begin.isPending}>
          <IconKey size={16} />
          {t.signIn.go}
        </button>
      </form>
    </>
  );
}
