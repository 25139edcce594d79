import { IconBuilding, IconKey } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { getRouteApi, useRouter } from '@tanstack/react-router';
import { useState } from 'react';
import { api, body, setCsrfToken } from '../api/client';
import { session, signInWays } from '../api/queries';
import { Logo, ProblemNote } from '../parts/parts';
import { signOut } from '../shell/signOut';
import { useTexts } from '../text/language';

const route = getRouteApi('/sign-in');

export function SignIn() {
  const t = useTexts();
  const { next = '/' } = route.useSearch();
  const router = useRouter();
  const queries = useQueryClient();
  const ways = useQuery(signInWays);
  const [token, setToken] = useState('');
  const begin = useMutation({
    mutationFn: () => body(api.POST('/v1/session', { headers: { Authorization: `Bearer ${token.trim()}` } })),
    onSuccess: async (found) => {
      queries.clear();
      setCsrfToken(found.csrf_token);
      queries.setQueryData(session.queryKey, found);
      // Only a path of ours: what the address says may come from anybody.
      await router.navigate({ href: /^\/(?![/\\])/.test(next) ? next : '/', replace: true });
    },
  });
  return (
    <main className="signin" style={{ maxWidth: 'none' }}>
      <div className="panel">
        <div>
          <div className="brand">
            <Logo />
            Podlane
          </div>
          <p className="sub" style={{ margin: '6px 0 0' }}>
            {t.signIn.intro}
          </p>
        </div>
        <h1 className="hidden">{t.signIn.title}</h1>
        {ways.data?.provider && (
          <>
            <a className="btn primary" href={`/v1/login?next=${encodeURIComponent(next)}`}>
              <IconBuilding size={17} />
              {t.signIn.provider}
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
        <div className="sub">
          {t.signIn.hint}
          <code className="block mono" style={{ marginTop: 6 }}>
            {t.signIn.lost}
          </code>
        </div>
      </div>
    </main>
  );
}

export function NoTenant() {
  const t = useTexts();
  return (
    <main className="signin" style={{ maxWidth: 'none' }}>
      <div className="panel">
        <h1>{t.signIn.noTenant}</h1>
        <p className="sub">{t.signIn.noTenantRemedy}</p>
        <button type="button" className="btn" onClick={() => void signOut()}>
          {t.top.signOut}
        </button>
      </div>
    </main>
  );
}
