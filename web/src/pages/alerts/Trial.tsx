import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { api, body, Problem } from '../../api/client';
import { clock, duration } from '../../parts/format';
import { useRole, useSettled, useTenant } from '../../parts/hooks';
import { ProblemNote, Skeleton } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { type RuleWish, tellValue } from './model';

const SHOWN = 5;

/** How often a rule would have fired in the last quarter of an hour: the control plane computes it. */
export function Trial({ wish }: { wish: RuleWish }) {
  const r = useTexts().alerts.rules;
  const tenant = useTenant();
  const { may } = useRole();
  const settled = useSettled(JSON.stringify(wish), 500);
  const query = useQuery({
    queryKey: ['t', tenant, 'trial', settled],
    enabled: may('editor'),
    placeholderData: keepPreviousData,
    staleTime: 30_000,
    // Rules are tried one at a time, and somebody else may be trying one.
    retry: (failures, error) => failures < 5 && error instanceof Problem && error.status === 429,
    queryFn: async () => {
      const rule = JSON.parse(settled) as RuleWish;
      const found = await body(
        api.POST('/v1/tenants/{tenant}/alerts/trial', { params: { path: { tenant } }, body: { name: 'trial', rule } }),
      );
      return { kind: rule.kind, found };
    },
  });
  if (!may('editor')) return null;
  const tried = query.data;
  return (
    <section className="panel" aria-label={r.trial}>
      <div className="panel-head">
        <h2>{r.trial}</h2>
      </div>
      {query.isError && (
        <div className="pad">
          <ProblemNote error={query.error} />
        </div>
      )}
      {!tried && !query.isError && (
        <p className="diff-none">
          <Skeleton width="100%" height={20} />
        </p>
      )}
      {tried && !query.isError && (
        <p className="diff-none" role="status">
          {tried.found.seconds === 0 ? (
            r.trialNone
          ) : (
            <>
              <b>{r.trialFired(tried.found.fired, duration(tried.found.seconds))}</b>{' '}
              {tried.found.worst === null ? r.trialEmpty : r.trialWorst(tellValue(tried.kind, tried.found.worst))}
            </>
          )}
        </p>
      )}
      {!query.isError &&
        tried?.found.alerts.slice(0, SHOWN).map((each) => (
          <div className="gate" key={`${each.at} ${JSON.stringify(each.labels)}`}>
            <div className="gate-line">
              <span className="grow">{each.summary}</span>
              <span className="sub num">
                {clock(each.at)}, {r.trialFor(duration(each.seconds))}
              </span>
            </div>
          </div>
        ))}
    </section>
  );
}
