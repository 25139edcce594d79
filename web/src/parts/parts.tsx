/** Small parts that all pages are made of. */
import { IconAlertTriangle, IconCircleX, IconLock } from '@tabler/icons-react';
import type { ReactNode } from 'react';
import { Problem } from '../api/client';
import type { AgentState, Role } from '../api/queries';
import type { Standing } from '../live/connection';
import { useTexts } from '../text/language';
import { duration } from './format';
import { useNow } from './hooks';

export function Logo() {
  return (
    <svg width="24" height="24" viewBox="0 0 24 24" aria-hidden="true">
      <rect width="24" height="24" rx="6" fill="#0b62d6" />
      <path d="M5 7h8M5 12h14M5 17h11" stroke="#fff" strokeWidth="2.6" strokeLinecap="round" />
    </svg>
  );
}

export function StatePill({ state }: { state: AgentState }) {
  const t = useTexts();
  return (
    <span className={`pill ${state}`} title={t.stateMeans[state]}>
      {t.states[state]}
    </span>
  );
}

/** What went wrong, and what to do about it: every error says both. */
export function ProblemNote({ error, retry, children }: { error: unknown; retry?: () => void; children?: ReactNode }) {
  const t = useTexts();
  const told =
    error instanceof Problem
      ? error.status === 0
        ? { title: t.problem.unreachable, detail: t.problem.unreachableDetail, remedy: t.problem.unreachableRemedy }
        : error
      : { title: t.problem.broken, detail: String(error), remedy: t.problem.brokenRemedy };
  const problems = error instanceof Problem ? error.problems : [];
  return (
    <div className="note bad" role="alert">
      <IconCircleX size={18} />
      <div className="grow">
        <p>
          <b>{told.title}.</b> {told.detail} {told.remedy}
        </p>
        {problems.map((each) => (
          <p key={each.path + each.message}>
            <span className="mono">{each.path}</span> {each.message} {each.remedy}
          </p>
        ))}
      </div>
      {children}
      {retry && (
        <button type="button" className="btn small" onClick={retry}>
          {t.problem.retry}
        </button>
      )}
    </div>
  );
}

export interface Looked {
  isError: boolean;
  isLoadingError: boolean;
  dataUpdatedAt: number;
  error: unknown;
  refetch: () => unknown;
}

/** A panel whose content was read: greyed with its age while it cannot be read again; the problem if it never was. */
export function Fresh({ query, children }: { query: Looked; children: ReactNode }) {
  if (query.isLoadingError) return <ProblemNote error={query.error} retry={() => void query.refetch()} />;
  return (
    <div className={query.isError ? 'stale' : undefined}>
      {query.isError && <StaleNote since={query.dataUpdatedAt} />}
      {children}
    </div>
  );
}

function StaleNote({ since }: { since: number }) {
  const t = useTexts();
  const now = useNow(1000);
  return (
    <div className="note warn stale-note" role="status" style={{ marginBottom: 10 }}>
      <IconAlertTriangle size={18} />
      <p>{t.stale(duration((now - since) / 1000))}</p>
    </div>
  );
}

/** Whether what is shown is what there is now. */
export function LivePill({ standing, paused = false }: { standing: Standing | undefined; paused?: boolean }) {
  const t = useTexts();
  const now = useNow(1000);
  if (paused) return <span className="pill warn">{t.live.paused}</span>;
  if (!standing) return <span className="pill">{t.live.connecting}</span>;
  if (standing.state === 'open') {
    return (
      <span className="pill">
        <i className="live-dot" />
        {t.live.everySecond}
      </span>
    );
  }
  return (
    <span className="pill bad" role="status">
      {t.live.away(duration((now - standing.since) / 1000))}
    </span>
  );
}

/** Of the size of what will be there. */
export function Skeleton({ width, height = 14 }: { width: number | string; height?: number }) {
  return <span className="skeleton" style={{ width, height }} aria-hidden="true" />;
}

/** Says why something can only be looked at, and whom to ask. */
export function ReadOnly({ role, needed }: { role: Role | undefined; needed: Role }) {
  const t = useTexts();
  return (
    <div className="note info" style={{ marginBottom: 12 }}>
      <IconLock size={17} />
      <p>
        <b>{t.readOnly.title}.</b> {t.readOnly.why(t.roles[role ?? 'none'], t.roles[needed])}
      </p>
    </div>
  );
}

export function Page({
  title,
  crumbs,
  sub,
  actions,
  children,
}: {
  title: ReactNode;
  crumbs?: ReactNode;
  sub?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
}) {
  return (
    <>
      {crumbs && <div className="crumb">{crumbs}</div>}
      <div className="head">
        <h1>{title}</h1>
        {sub && <span className="sub">{sub}</span>}
        {actions && <div className="actions">{actions}</div>}
      </div>
      {children}
    </>
  );
}
