import type { ErrorComponentProps } from '@tanstack/react-router';
import { ProblemNote } from '../parts/parts';
import { useTexts } from '../text/language';

export function Failed({ error, reset }: ErrorComponentProps) {
  return (
    <main style={{ maxWidth: 720 }}>
      <ProblemNote error={error} retry={reset} />
    </main>
  );
}

export function NotFound() {
  const t = useTexts();
  return (
    <div className="empty">
      <h1>{t.problem.notFound}</h1>
      <p>{t.problem.notFoundRemedy}</p>
      <a className="btn" href="/">
        {t.nav.overview}
      </a>
    </div>
  );
}
