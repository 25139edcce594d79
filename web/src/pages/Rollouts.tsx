import { useInfiniteQuery, useQueries } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import type { Schemas } from '../api/client';
import { policies, rollout } from '../api/queries';
import { count } from '../parts/format';
import { useTenant } from '../parts/hooks';
import { Fresh, Page, Skeleton } from '../parts/parts';
import { useTexts } from '../text/language';
import { RolloutPill, Whole } from './rollout/parts';

export function Rollouts() {
  const t = useTexts();
  const tenant = useTenant();
  const list = useInfiniteQuery(policies(tenant));
  const rank = (state: string) => (state === 'running' || state === 'paused' ? 0 : 1);
  const found = list.data?.pages
    .flatMap((page) => page.items)
    .filter((each) => each.rollout)
    .sort((a, b) => rank(a.rollout ?? '') - rank(b.rollout ?? ''));
  const each = useQueries({ queries: (found ?? []).map((policy) => rollout(tenant, policy.name)) });
  return (
    <Page title={t.rollouts.title} sub={<span className="wide">{t.rollouts.sub}</span>}>
      <Fresh query={list}>
        <section className="panel" aria-label={t.rollouts.title}>
          {!found && (
            <div className="pad">
              <Skeleton width="100%" height={80} />
            </div>
          )}
          {found?.map((policy, at) => (
            <Row key={policy.name} policy={policy} rollout={each[at]?.data} />
          ))}
          {found?.length === 0 && (
            <div className="empty">
              <h2>{t.rollouts.empty}</h2>
              <p>{t.rollouts.emptyRemedy}</p>
              <Link className="btn" to="/t/$tenant/policies" params={{ tenant }}>
                {t.nav.policies}
              </Link>
            </div>
          )}
        </section>
      </Fresh>
    </Page>
  );
}

function Row({
  policy,
  rollout,
}: {
  policy: Schemas['PolicyDocument'];
  rollout: Schemas['RolloutDocument'] | undefined;
}) {
  const t = useTexts();
  const tenant = useTenant();
  return (
    <div className="policy-row">
      <div className="cut">
        <Link data-row className="row-link" to="/t/$tenant/rollouts/$policy" params={{ tenant, policy: policy.name }}>
          {policy.name}
        </Link>
        <div className="sub">
          {rollout ? t.rollouts.revision(rollout.revision) : <Skeleton width={40} />}
          {rollout &&
            rollout.state === 'running' &&
            ` · ${t.rollouts.stageOf(rollout.stage + 1, rollout.stages.length)}`}
        </div>
      </div>
      <div>
        {rollout ? <Whole rollout={rollout} /> : <Skeleton width="100%" height={10} />}
        <div className="sub cut" style={{ marginTop: 3 }}>
          {rollout?.reason || (rollout?.progress && t.rollouts.ofAgents(count(rollout.progress.agents)))}
        </div>
      </div>
      <div className="policy-state">{rollout && <RolloutPill rollout={rollout} />}</div>
    </div>
  );
}
