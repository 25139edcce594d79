import { useQueryClient } from '@tanstack/react-query';
import { getRouteApi, useRouter } from '@tanstack/react-router';
import { setCsrfToken } from '../api/client';
import { session } from '../api/queries';
import { Logo } from '../parts/parts';
import { SignInForm } from '../shell/SignInForm';
import { signOut } from '../shell/signOut';
import { useTexts } from '../text/language';

const route = getRouteApi('/sign-in');

export function SignIn() {
  const t = useTexts();
  const { next = '/' } = route.useSearch();
  const router = useRouter();
  const queries = useQueryClient();
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
        <SignInForm
          next={next}
          begun={async (found) => {
            queries.clear();
            setCsrfToken(found.csrf_token);
            queries.setQueryData(session.queryKey, found);
            // Only a path of ours: what the address says may come from anybody.
            await router.navigate({ href: /^\/(?![/\\])/.test(next) ? next : '/', replace: true });
          }}
        />
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
