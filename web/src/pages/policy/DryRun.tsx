import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { api, body, Problem } from '../../api/client';
import { duration, rate, short } from '../../parts/format';
import { useRole, useSettled, useTenant } from '../../parts/hooks';
import { ProblemNote, Skeleton } from '../../parts/parts';
import { useTexts } from '../../text/language';
import type { Written } from './useEditor';

/** What would have waited in the last quarter of an hour with what is written: the control plane computes it. */
export function DryRun({ name, written }: { name: string; written: Written }) {
  const t = useTexts();
  const e = t.editor;
  const tenant = useTenant();
  const { may } = useRole();
  const settled = useSettled(written, 600);
  const query = useQuery({
    queryKey: ['t', tenant, 'preview', name, JSON.stringify(settled)],
    enabled: may('editor'),
    placeholderData: keepPreviousData,
    staleTime: 30_000,
    retry: false,
    queryFn: () =>
      body(
        api.POST('/v1/tenants/{tenant}/policies/{policy}/preview', {
          params: { path: { tenant, policy: name } },
          body: { document: settled.doc as Record<string, unknown>, selector: settled.selector, nodes: settled.nodes },
        }),
      ),
  });
  // What is wrong with the policy is told beside its lanes.
  const refused = query.error instanceof Problem && query.error.status === 422;
  if (!may('editor') || refused) return null;
  const found = query.data;
  const lanes = (found?.lanes ?? []).filter((lane) => lane.fate !== 'same' || lane.waited > 0);
  return (
    <section className="panel" aria-label={e.dryRun}>
      <div className="panel-head">
        <h2>{e.dryRun}</h2>
      </div>
      {query.isError && (
        <div className="pad">
          <ProblemNote error={query.error} retry={() => void query.refetch()} />
        </div>
      )}
      {!found && !query.isError && (
        <p className="diff-none">
          <Skeleton width="100%" height={60} />
        </p>
      )}
      {found && (
        <>
          {lanes.length === 0 && <p className="sub diff-none">{found.seconds ? e.dryRunSame : e.dryRunNever}</p>}
          {lanes.map((lane) => (
            <div className="gate" key={lane.direction + lane.lane}>
              <div className="gate-line">
                <b className="grow cut">{lane.lane || e.dryRunTotal}</b>
                <span className="sub num">
                  {lane.before && `${rate(lane.before.rate)} – ${rate(lane.before.ceil)}`}
                  {' → '}
                  {lane.after && `${rate(lane.after.rate)} – ${rate(lane.after.ceil)}`}
                </span>
              </div>
              <div className="sub num" style={lane.waited ? { color: 'var(--warn)' } : undefined}>
                {lane.waited ? e.dryRunWaited(duration(lane.waited), `${short(lane.beyond * 100)} %`) : e.dryRunFine}
              </div>
            </div>
          ))}
          {found.rivals
            .filter((each) => each.wins)
            .map((each) => (
              <p key={each.policy} className="sub diff-none" style={{ color: 'var(--warn)' }}>
                {e.rival(each.policy)}
              </p>
            ))}
          {found.seconds > 0 && (
            <p className="sub gate-foot">
              {e.dryRunPods(found.workloads, duration(found.seconds))}.{' '}
              {lanes.some((lane) => lane.waited) && e.dryRunLeast}
            </p>
          )}
        </>
      )}
    </section>
  );
}
