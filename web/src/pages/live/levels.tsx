/** From the whole fleet down to a Pod: each level has the next one as a table, and the address says where one is. */
import { getRouteApi, Link } from '@tanstack/react-router';
import { type ReactNode, useRef } from 'react';
import type { Schemas } from '../../api/client';
import { useWindow } from '../../live/useWindow';
import { count, rate, short } from '../../parts/format';
import { useTenant } from '../../parts/hooks';
import { ProblemNote, Skeleton, StatePill } from '../../parts/parts';
import { useTexts } from '../../text/language';

const route = getRouteApi('/t/$tenant/live');
const SHOWN = 50;

interface Place {
  cluster?: string | undefined;
  node?: string | undefined;
  namespace?: string | undefined;
  /** KIND/NAME of what runs Pods. */
  controller?: string | undefined;
  pod?: string | undefined;
}

/** Leads to a place on Live. The policy that is looked at stays in the address, for the way back. */
export function To({ place, children, row }: { place: Place; children: ReactNode; row?: boolean }) {
  const tenant = useTenant();
  const { policy, direction } = route.useSearch();
  return (
    <Link
      data-row={row || undefined}
      to="/t/$tenant/live"
      params={{ tenant }}
      search={{
        ...(policy ? { policy } : {}),
        ...(direction ? { direction } : {}),
        ...Object.fromEntries(Object.entries(place).filter(([, value]) => value)),
      }}
    >
      {children}
    </Link>
  );
}

/** What runs Pods, as people say it: Deployment web. */
export const controllerName = (controller: string) => controller.replace('/', ' ');

/** Where one is: the whole fleet, a cluster, an agent, a namespace, a workload, a Pod. */
export function LiveCrumbs() {
  const t = useTexts();
  const { cluster, node, namespace, controller, pod } = route.useSearch();
  const space = namespace ?? (pod?.includes('/') ? pod.slice(0, pod.indexOf('/')) : undefined);
  const levels: { says: string; place: Place }[] = [{ says: t.fleet.allClusters, place: {} }];
  if (cluster) levels.push({ says: cluster, place: { cluster } });
  if (cluster && node) levels.push({ says: node, place: { cluster, node } });
  if (cluster && node && space) levels.push({ says: space, place: { cluster, node, namespace: space } });
  if (cluster && node && space && controller)
    levels.push({ says: controllerName(controller), place: { cluster, node, namespace: space, controller } });
  if (cluster && node && pod) levels.push({ says: pod.slice(pod.indexOf('/') + 1), place: { cluster, node, pod } });
  return (
    <nav aria-label={t.live.where} className="crumb">
      <span>{t.nav.live}</span>
      {levels.map(({ says, place }, at) => (
        <span key={says + String(at)}>
          / {at === levels.length - 1 ? <span aria-current="page">{says}</span> : <To place={place}>{says}</To>}
        </span>
      ))}
    </nav>
  );
}

interface Below {
  key: string;
  name: ReactNode;
  state?: ReactNode;
  /** Left out: it is one itself. */
  pods?: number;
  bytes: number;
  throttled: number;
  dropped: number;
}

/** The next level as a table. Undefined: not known yet. */
export function BelowTable(given: {
  title: string;
  name: string;
  /** What `state` of the rows is, if they have one. */
  state?: string;
  rows: Below[] | undefined;
  nothing: string;
  more?: number;
}) {
  const t = useTexts();
  const l = t.live;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard
    <section className="panel scroll" aria-label={given.title} tabIndex={0}>
      <div className="panel-head">
        <h2>{given.title}</h2>
      </div>
      {!given.rows && (
        <div className="pad">
          <Skeleton width="100%" height={90} />
        </div>
      )}
      {given.rows?.length === 0 && <p className="sub diff-none">{given.nothing}</p>}
      {given.rows && given.rows.length > 0 && (
        <table className="table num">
          <thead>
            <tr>
              <th>{given.name}</th>
              {given.state && <th className="wide">{given.state}</th>}
              {given.rows[0]?.pods !== undefined && <th className="r wide">{l.pods}</th>}
              <th className="r">{l.nowColumn}</th>
              <th className="r">{l.waits}</th>
              <th className="r wide">{l.drops}</th>
            </tr>
          </thead>
          <tbody>
            {given.rows.map((each) => (
              <tr key={each.key}>
                <td className="mono" style={{ overflowWrap: 'anywhere' }}>
                  {each.name}
                </td>
                {given.state && <td className="wide">{each.state}</td>}
                {each.pods !== undefined && <td className="r wide">{count(each.pods)}</td>}
                <td className="r">
                  <b>{rate(each.bytes * 8)}</b>
                </td>
                <td className="r">{each.throttled >= 1 ? l.times(short(each.throttled)) : '–'}</td>
                <td className="r wide">{each.dropped >= 0.05 ? short(each.dropped) : '–'}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {given.more ? <p className="sub diff-none">{l.more(count(given.more))}</p> : null}
    </section>
  );
}

export function ClustersBelow() {
  const t = useTexts();
  const tenant = useTenant();
  const { window, problem } = useWindow<Schemas['LiveCluster'], Schemas['LiveAgentTotals']>({
    tenant,
    topic: 'clusters',
    sort: '-bytes',
    limit: SHOWN,
  });
  if (problem) return <ProblemNote error={problem} />;
  return (
    <BelowTable
      title={t.live.clusters}
      name={t.fleet.cluster}
      state={t.fleet.state}
      nothing={t.live.noClusters}
      more={window ? window.total - window.rows.length : 0}
      rows={window?.rows.map((each) => ({
        key: each.name,
        name: (
          <To place={{ cluster: each.name }} row>
            {each.name}
          </To>
        ),
        state: t.live.connectedOf(count(each.agents - each.away), count(each.agents)),
        pods: each.workloads,
        bytes: each.bytes,
        throttled: each.throttled,
        dropped: each.dropped,
      }))}
    />
  );
}

export function AgentsBelow({ cluster }: { cluster: string }) {
  const t = useTexts();
  const tenant = useTenant();
  const { window, problem } = useWindow<Schemas['LiveAgent'], Schemas['LiveAgentTotals']>({
    tenant,
    topic: 'agents',
    scope: { cluster },
    sort: '-bytes',
    limit: SHOWN,
  });
  if (problem) return <ProblemNote error={problem} />;
  return (
    <BelowTable
      title={t.live.agentsOf(cluster)}
      name={t.fleet.node}
      state={t.fleet.state}
      nothing={t.fleet.nothing}
      more={window ? window.total - window.rows.length : 0}
      rows={window?.rows.map((each) => ({
        key: each.node,
        name: (
          <To place={{ cluster, node: each.node }} row>
            {each.node}
          </To>
        ),
        state: <StatePill state={each.state} />,
        pods: each.workloads,
        bytes: each.bytes,
        throttled: each.throttled,
        dropped: each.dropped,
      }))}
    />
  );
}

/** Seconds that an agent may take to tell of its Pods, which it does once somebody looks. */
const ASKED = 5;

/** Whether it has been asked so long that what it has not told it will not tell. `at`: Unix seconds, of the server. */
export function useAskedLong(at: number | undefined) {
  const first = useRef(at);
  first.current ??= at;
  return at !== undefined && first.current !== undefined && at - first.current >= ASKED;
}
