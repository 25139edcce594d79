import { IconAdjustments, IconPlayerPause, IconPlayerPlay } from '@tabler/icons-react';
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { type Dispatch, type SetStateAction, useCallback, useMemo, useState } from 'react';
import { clusters as clustersQuery, eventsOf, policies } from '../api/queries';
import { type LiveSeries, useSeries } from '../live/useSeries';
import { bytes, count, duration, rate, rates, rateUnit, short } from '../parts/format';
import { useTenant } from '../parts/hooks';
import { LivePill, Page, ProblemNote, Skeleton } from '../parts/parts';
import { useKeys } from '../shell/keys';
import { useTexts } from '../text/language';
import { type Marker, Mini, Stacked } from './live/Charts';
import { LanesTable } from './live/LanesTable';
import { AgentsBelow, ClustersBelow, LiveCrumbs } from './live/levels';
import { OfNode } from './live/OfNode';
import { OfPod } from './live/OfPod';
import { Waiting, waitingOf } from './live/Waiting';
import { standOf } from './live/why';
import { laneColor } from './policy/Bars';
import { lanesOf, type PolicyDoc } from './policy/model';

const route = getRouteApi('/t/$tenant/live');
const FIELDS = ['bytes', 'dropped', 'overlimits', 'backlog', 'workloads', 'rate', 'ceil'];

/** Pixels of a row of the table. */
const ROW = 34;

export function Live() {
  const { cluster, node, pod } = route.useSearch();
  // One agent knows its Pods, whatever their policies are.
  if (cluster && node && pod)
    return <OfPod key={`${cluster}/${node}/${pod}`} cluster={cluster} node={node} pod={pod} />;
  if (cluster && node) return <OfNode cluster={cluster} node={node} />;
  return <OfPolicies />;
}

function OfPolicies() {
  const t = useTexts();
  const tenant = useTenant();
  const list = useInfiniteQuery(policies(tenant, { in_force: true }));
  const { policy, cluster, direction = 'egress', seconds = 300 } = route.useSearch();
  const [paused, setPaused] = useState(false);
  const found = list.data?.pages.flatMap((page) => page.items);
  const chosen = found?.find((each) => each.name === policy) ?? found?.[0];
  // What the address names is asked for before it is known whether it is there.
  const name = chosen?.name ?? (found ? undefined : policy);
  const asked = name && {
    tenant,
    topic: 'series',
    scope: { policy: name, direction, ...(cluster ? { cluster } : {}) },
    fields: FIELDS,
  };
  const live = useSeries(asked || undefined, seconds, paused);
  if (list.isLoadingError) return <ProblemNote error={list.error} retry={() => void list.refetch()} />;
  if (found && !chosen) {
    return (
      <Page title={t.nav.live}>
        <section className="panel empty">
          <h2>{t.live.empty}</h2>
          <p>{t.live.emptyRemedy}</p>
          <Link className="btn" to="/t/$tenant/policies" params={{ tenant }}>
            {t.nav.policies}
          </Link>
        </section>
      </Page>
    );
  }
  if (!found || !chosen) {
    return (
      <Page title={t.nav.live}>
        <Skeleton width="100%" height={520} />
      </Page>
    );
  }
  const order = lanesOf((chosen.in_force?.document ?? {}) as PolicyDoc).map((lane) => lane.name ?? '');
  return (
    <Watched
      policy={chosen.name}
      names={found.map((each) => each.name)}
      order={order}
      live={live}
      paused={paused}
      setPaused={setPaused}
    />
  );
}

interface WatchedProps {
  policy: string;
  names: string[];
  order: string[];
  live: LiveSeries;
  paused: boolean;
  setPaused: Dispatch<SetStateAction<boolean>>;
}

function Watched({ policy, names, order, live, paused, setPaused }: WatchedProps) {
  const t = useTexts();
  const l = t.live;
  const tenant = useTenant();
  const navigate = route.useNavigate();
  const { direction = 'egress', cluster, seconds = 300 } = route.useSearch();
  const clusters = useQuery(clustersQuery(tenant));
  const events = useQuery({ ...eventsOf(tenant, `policy/${policy}`, 50), refetchInterval: 5000 });
  const { series, standing, problem } = live;
  useKeys(
    useCallback(
      (event, writing) => {
        if (!writing && event.key === 'p' && !event.ctrlKey && !event.metaKey && !event.altKey)
          setPaused((now) => !now);
      },
      [setPaused],
    ),
  );
  const shown = useMemo(() => {
    if (!series) return undefined;
    const place = (name: string) => (order.includes(name) ? order.indexOf(name) : order.length);
    const lanes = [...series.lanes].sort((a, b) => place(a.lane) - place(b.lane));
    const times = Array.from({ length: series.seconds }, (_, at) => series.from + at);
    const color = (name: string) => laneColor(order.indexOf(name));
    return {
      times,
      color,
      lanes: lanes.map((lane) => ({
        stand: standOf(lane),
        rate: lane.values.rate ?? new Float64Array(),
        ceil: lane.values.ceil ?? new Float64Array(),
        drawn: {
          name: lane.lane,
          color: color(lane.lane),
          bits: (lane.values.bytes ?? new Float64Array()).map((value) => value * 8),
        },
      })),
    };
  }, [series, order]);
  const markers: Marker[] = (events.data?.items ?? [])
    .filter((each) => ['PolicyPublished', 'RolloutTakenBack', 'RolloutAdvanced'].includes(each.kind))
    .map((each) => ({ at: each.at / 1000, says: `r${each.data.revision} ${l.markers[each.kind] ?? ''}` }));
  const stands = shown?.lanes.map((lane) => lane.stand) ?? [];
  const waiting = waitingOf(stands);
  const now = stands.reduce((sum, stand) => sum + stand.now, 0);
  const { unit, size } = rateUnit(now);
  return (
    <Page
      crumbs={<LiveCrumbs />}
      title={
        <>
          {policy}
          <LivePill standing={standing} paused={paused} />
        </>
      }
      actions={
        <>
          <select
            className="select"
            aria-label={l.policy}
            value={policy}
            onChange={(event) => void navigate({ search: (before) => ({ ...before, policy: event.target.value }) })}
          >
            {names.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
          <select
            className="select"
            aria-label={t.fleet.cluster}
            value={cluster ?? ''}
            onChange={(event) =>
              void navigate({ search: (before) => ({ ...before, cluster: event.target.value || undefined }) })
            }
          >
            <option value="">{t.fleet.allClusters}</option>
            {clusters.data?.items.map((each) => (
              <option key={each.name}>{each.name}</option>
            ))}
          </select>
          <div className="segments" role="group" aria-label={l.span}>
            {([60, 300, 900] as const).map((each) => (
              <button
                key={each}
                type="button"
                aria-pressed={seconds === each}
                onClick={() =>
                  void navigate({ search: (before) => ({ ...before, seconds: each === 300 ? undefined : each }) })
                }
              >
                {duration(each === 60 ? 60 : each).replace('60 s', '1 min')}
              </button>
            ))}
          </div>
          <div className="segments" role="group" aria-label={l.direction}>
            <button
              type="button"
              aria-pressed={direction === 'egress'}
              onClick={() => void navigate({ search: (before) => ({ ...before, direction: undefined }) })}
            >
              {l.sent}
            </button>
            <button
              type="button"
              aria-pressed={direction === 'ingress'}
              onClick={() => void navigate({ search: (before) => ({ ...before, direction: 'ingress' }) })}
            >
              {l.received}
            </button>
          </div>
          <button type="button" className="btn" aria-pressed={paused} onClick={() => setPaused(!paused)}>
            {paused ? <IconPlayerPlay size={16} /> : <IconPlayerPause size={16} />}
            {paused ? l.goOn : l.pause}
          </button>
          <Link className="btn primary" to="/t/$tenant/policies/$policy" params={{ tenant, policy }}>
            <IconAdjustments size={16} />
            {l.edit}
          </Link>
        </>
      }
    >
      {problem && <ProblemNote error={problem} />}
      <div className={standing?.state === 'away' ? 'stale' : undefined}>
        <div className="tiles">
          <Tile name={l.now} value={shown && short(now / size)} unit={unit} />
          <Tile
            name={l.waitingLanes}
            value={shown && count(waiting.length)}
            unit={l.ofLanes(stands.length)}
            tone={waiting.length ? 'var(--warn)' : undefined}
          />
          <Tile
            name={l.backlog}
            value={shown && bytes(stands.reduce((sum, stand) => sum + stand.backlog, 0))}
            unit=""
          />
          <Tile
            name={l.drops}
            value={shown && short(stands.reduce((sum, stand) => sum + stand.dropped, 0))}
            unit={l.perSecond}
          />
          <Tile name={l.pods} value={shown && count(Math.max(0, ...stands.map((stand) => stand.workloads)))} unit="" />
        </div>
        <div className="two">
          <div className="stack">
            <section className="panel" aria-label={l.together}>
              <div className="panel-head">
                <h2>{l.together}</h2>
                <div className="legend right">
                  {(shown?.lanes.map(({ drawn }) => drawn.name) ?? order).map((name) => (
                    <span key={name}>
                      <i className="dot" style={{ background: laneColor(order.indexOf(name)) }} />
                      {name}
                    </span>
                  ))}
                </div>
              </div>
              <div style={{ padding: '6px 10px', minHeight: 222 }}>
                {shown ? (
                  shown.lanes.length ? (
                    <Stacked
                      height={210}
                      times={shown.times}
                      lanes={shown.lanes.map((lane) => lane.drawn)}
                      markers={markers}
                      label={l.togetherSays(policy, shown.lanes.length)}
                    />
                  ) : (
                    <p className="empty" style={{ margin: 0 }}>
                      {l.silent}
                    </p>
                  )
                ) : (
                  <Skeleton width="100%" height={210} />
                )}
              </div>
              <div className="minis">
                {shown?.lanes.map((lane) => (
                  <div key={lane.drawn.name}>
                    <div className="mini-head num">
                      <b className="cut">
                        <i className="dot" style={{ background: lane.drawn.color }} /> {lane.drawn.name}
                      </b>
                      <b>{rate(lane.stand.now)}</b>
                      <span className="sub right">{rates(lane.stand.rate, lane.stand.ceil, l.between)}</span>
                    </div>
                    <Mini
                      times={shown.times}
                      lane={lane.drawn}
                      rate={lane.rate}
                      ceil={lane.ceil}
                      label={l.miniSays(
                        lane.drawn.name,
                        rate(lane.stand.now),
                        rate(lane.stand.rate),
                        rate(lane.stand.ceil),
                      )}
                    />
                  </div>
                ))}
                {!shown &&
                  order.map((name) => (
                    <div key={name}>
                      <Skeleton width="100%" height={96} />
                    </div>
                  ))}
              </div>
            </section>
            {shown ? (
              <LanesTable stands={stands} color={shown.color} />
            ) : (
              <section className="panel">
                <Skeleton width="100%" height={ROW * (order.length + 1)} />
              </section>
            )}
            {cluster ? <AgentsBelow cluster={cluster} /> : <ClustersBelow />}
          </div>
          <Waiting stands={shown ? stands : undefined} color={shown?.color ?? (() => 'var(--n)')} />
        </div>
      </div>
    </Page>
  );
}

function Tile({
  name,
  value,
  unit,
  tone,
}: {
  name: string;
  value: string | undefined;
  unit: string;
  tone?: string | undefined;
}) {
  return (
    <div className="panel tile">
      <div className="sub">{name}</div>
      <div className="value num" style={{ color: tone }}>
        {value ?? <Skeleton width={70} height={22} />} <small>{unit}</small>
      </div>
    </div>
  );
}
