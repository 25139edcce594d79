import { useQueryClient } from '@tanstack/react-query';
import { setCsrfToken } from '../api/client';
import { session } from '../api/queries';
import { Dialog } from '../parts/overlays';
import { useTexts } from '../text/language';
import { SignInForm } from './SignInForm';

/** Over the page, which stays as it is. */
export function SignInAgain() {
  const t = useTexts();
  const queries = useQueryClient();
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
