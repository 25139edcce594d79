import { useInfiniteQuery, useQueries } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { agent, agents } from '../api/queries';
import { useTenant } from '../parts/hooks';
import { Fresh, Page, Skeleton } from '../parts/parts';
import { useTexts } from '../text/language';
import { InForceSheet } from './workloads/InForceSheet';
import { placeOf } from './workloads/inForce';
import { InForceLink, OfAgent } from './workloads/OfAgent';

const route = getRouteApi('/t/$tenant/workloads');
const MOST = 50;

/** Pods that are without what is desired, of the agents that have failed; and of any agent those that it tells of. */
export function Workloads() {
  const t = useTexts();
  const w = t.workloads;
  const tenant = useTenant();
  const asked = route.useSearch();
  const navigate = route.useNavigate();
  const place = placeOf(asked.agent ?? '');
  const list = useInfiniteQuery(agents(tenant, { state: 'failed' }));
  const failed = list.data?.pages.flatMap((page) => page.items).slice(0, MOST) ?? [];
  const details = useQueries({
    queries: failed.map((each) => ({ ...agent(tenant, each.cluster, each.node), refetchInterval: 10_000 })),
  });
  const rows = details.flatMap(({ data }) =>
    (data?.failures ?? []).map((failure) => ({ ...failure, cluster: data?.cluster ?? '', node: data?.node ?? '' })),
  );
  const reading = !list.data || details.some((each) => each.isPending);
  return (
    <Page title={t.nav.workloads} sub={w.sub}>
      <Fresh query={list}>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard */}
        <section className="panel scroll" aria-label={w.without} tabIndex={0}>
          <div className="panel-head">
            <h2>{w.without}</h2>
          </div>
          {rows.length === 0 && reading && (
            <div className="pad">
              <Skeleton width="100%" height={200} />
            </div>
          )}
          {rows.length === 0 && !reading && (
            <div className="empty">
              <h2>{w.none}</h2>
              <p>{w.noneRemedy}</p>
            </div>
          )}
          {rows.length > 0 && (
            <table className="table">
              <thead>
                <tr>
                  <th>{w.pod}</th>
                  <th className="wide">{w.policy}</th>
                  <th>{w.why}</th>
                  <th className="wide">{w.agent}</th>
                </tr>
              </thead>
              <tbody>
                {rows.map((row) => (
                  <tr key={`${row.cluster}/${row.node}/${row.workload}`}>
                    <td className="mono" style={{ overflowWrap: 'anywhere' }}>
                      <InForceLink agent={`${row.cluster}/${row.node}`} pod={row.workload} />
                    </td>
                    <td className="wide">
                      {row.policy ? (
                        <Link to="/t/$tenant/policies/$policy" params={{ tenant, policy: row.policy }}>
                          {row.policy}
                        </Link>
                      ) : (
                        <span className="sub">{w.own}</span>
                      )}
                    </td>
                    <td>{row.reason}</td>
                    <td className="wide">
                      <Link
                        className="mono"
                        to="/t/$tenant/fleet"
                        params={{ tenant }}
                        search={{ agent: `${row.cluster}/${row.node}` }}
                      >
                        {row.cluster}/{row.node}
                      </Link>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </section>
        {failed.length === MOST && <p className="sub">{w.first(MOST)}</p>}
      </Fresh>
      <OfAgent />
      {place && asked.pod && (
        <InForceSheet
          {...place}
          workload={asked.pod}
          close={() => void navigate({ search: ({ agent }) => ({ agent }), resetScroll: false })}
        />
      )}
    </Page>
  );
}
