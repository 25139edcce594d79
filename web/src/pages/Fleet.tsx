import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { getRouteApi } from '@tanstack/react-router';
import { lazy, Suspense, useEffect, useState } from 'react';
import { type AgentSort, type AgentState, agents, agentsSummary } from '../api/queries';
import { count } from '../parts/format';
import { useSettled, useTenant } from '../parts/hooks';
import { Fresh, Page, Skeleton } from '../parts/parts';
import { useTexts } from '../text/language';
import { AgentRows } from './fleet/AgentRows';
import { Heat } from './fleet/Heat';

const AgentDrawer = lazy(() => import('./fleet/AgentDrawer').then((found) => ({ default: found.AgentDrawer })));

const route = getRouteApi('/t/$tenant/fleet');
export const STATES: AgentState[] = ['in-sync', 'behind', 'failed', 'away'];
const SORTS: AgentSort[] = ['node', '-node', 'joined', '-joined'];
/** Pixels that the squares of one cluster take, so that what is below does not move when they come. */
const HEAT = 102;
const PREFIX = /^[a-z0-9.-]{0,253}$/;

export function Fleet() {
  const t = useTexts();
  const tenant = useTenant();
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const { agent, ...asked } = search;
  const summary = useQuery(agentsSummary(tenant));
  const list = useInfiniteQuery(agents(tenant, asked));
  const [prefix, setPrefix] = useState(asked.node ?? '');
  const settled = useSettled(prefix.trim().toLowerCase(), 250);
  useEffect(() => {
    if (PREFIX.test(settled))
      void navigate({ search: (now) => ({ ...now, node: settled || undefined }), replace: true });
  }, [settled, navigate]);
  const filtered = Boolean(asked.state || asked.cluster || asked.node);
  const all = summary.data?.agents ?? 0;
  return (
    <Page
      title={t.nav.fleet}
      sub={
        summary.data &&
        t.fleet.sub(
          t.fleet.agents(all, count(all)),
          t.fleet.clusters(summary.data.clusters.length, count(summary.data.clusters.length)),
        )
      }
    >
      <Fresh query={summary}>
        <div className="tiles" style={{ gridTemplateColumns: undefined }}>
          <button
            type="button"
            className="panel tile"
            aria-current={!asked.state}
            onClick={() => void navigate({ search: (now) => ({ ...now, state: undefined }) })}
          >
            <div className="sub">{t.all}</div>
            <div className="value num">{summary.data ? count(all) : <Skeleton width={60} height={22} />}</div>
          </button>
          {STATES.map((state) => (
            <button
              key={state}
              type="button"
              className="panel tile"
              title={t.stateMeans[state]}
              aria-current={asked.state === state}
              onClick={() =>
                void navigate({ search: (now) => ({ ...now, state: now.state === state ? undefined : state }) })
              }
            >
              <div className="sub">{t.states[state]}</div>
              <div className="value num" style={{ color: tint(state, summary.data?.states[state] ?? 0) }}>
                {summary.data ? count(summary.data.states[state] ?? 0) : <Skeleton width={50} height={22} />}
              </div>
            </button>
          ))}
        </div>
        <div className="stack">
          {!summary.data && <Skeleton width="100%" height={HEAT} />}
          {summary.data && all > 0 && <Heat summary={summary.data} cluster={asked.cluster} />}
          {summary.data && all === 0 && (
            <section className="panel empty">
              <h2>{t.fleet.empty}</h2>
              <p>{t.fleet.emptyRemedy}</p>
            </section>
          )}
        </div>
      </Fresh>
      {(!summary.data || all > 0) && (
        <section className="panel" aria-label={t.nav.fleet} style={{ marginTop: 12 }}>
          <div className="filters">
            <input
              className="input"
              type="search"
              aria-label={t.fleet.nodePrefix}
              placeholder={t.fleet.nodePrefix}
              value={prefix}
              onChange={(event) => setPrefix(event.target.value)}
            />
            <select
              className="select"
              aria-label={t.fleet.cluster}
              value={asked.cluster ?? ''}
              onChange={(event) =>
                void navigate({ search: (now) => ({ ...now, cluster: event.target.value || undefined }) })
              }
            >
              <option value="">{t.fleet.allClusters}</option>
              {summary.data?.clusters.map((each) => (
                <option key={each.cluster}>{each.cluster}</option>
              ))}
            </select>
            <select
              className="select"
              aria-label={t.fleet.sort}
              value={asked.sort ?? 'node'}
              onChange={(event) =>
                void navigate({ search: (now) => ({ ...now, sort: event.target.value as AgentSort }) })
              }
            >
              {SORTS.map((each) => (
                <option key={each} value={each}>
                  {t.fleet.sorts[each]}
                </option>
              ))}
            </select>
            {filtered && (
              <button
                type="button"
                className="btn small"
                onClick={() => {
                  setPrefix('');
                  void navigate({ search: (now) => ({ sort: now.sort }) });
                }}
              >
                {t.fleet.clear}
              </button>
            )}
          </div>
          <Fresh query={list}>
            <AgentRows list={list} chosen={agent} />
          </Fresh>
        </section>
      )}
      {agent && (
        <Suspense fallback={null}>
          <AgentDrawer name={agent} close={() => void navigate({ search: (now) => ({ ...now, agent: undefined }) })} />
        </Suspense>
      )}
    </Page>
  );
}

function tint(state: AgentState, number: number): string | undefined {
  if (!number) return undefined;
  return state === 'failed'
    ? 'var(--bad)'
    : state === 'behind'
      ? 'var(--accent)'
      : state === 'away'
        ? 'var(--warn)'
        : undefined;
}
