import { getRouteApi, Link } from '@tanstack/react-router';
import { useEffect, useMemo, useState } from 'react';
import type { Schemas } from '../../api/client';
import { useWindow } from '../../live/useWindow';
import { useTenant } from '../../parts/hooks';
import { LivePill, Page, ProblemNote, Skeleton } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { laneColor } from '../policy/Bars';
import { Stacked } from './Charts';
import { Connections } from './Connections';
import { LanesTable } from './LanesTable';
import { LiveCrumbs, useAskedLong } from './levels';
import { drawnOf, grown, type Sample, standsOf } from './podSeries';
import { Waiting } from './Waiting';

const route = getRouteApi('/t/$tenant/live');
/** Seconds. */
const SPAN = 120;

/** One Pod, since somebody looks at it: what its lanes send, and which of them wait and why. */
export function OfPod({ cluster, node, pod }: { cluster: string; node: string; pod: string }) {
  const t = useTexts();
  const l = t.live;
  const tenant = useTenant();
  const { direction = 'egress' } = route.useSearch();
  const { window, standing, problem } = useWindow<Schemas['LiveWorkload'], Schemas['LiveWorkloadTotals']>({
    tenant,
    topic: 'workloads',
    scope: { cluster, node },
    filter: { text: pod },
    limit: 20,
  });
  const row = window?.rows.find((each) => each.workload === pod);
  const at = window?.at;
  const silent = useAskedLong(at) && !row;
  const [samples, setSamples] = useState<Sample[]>([]);
  useEffect(() => {
    if (at !== undefined) setSamples((before) => grown(before, at, row, SPAN));
  }, [at, row]);
  const stands = row && standsOf(row, direction);
  const names = stands?.map((each) => each.name).join('\n') ?? '';
  const { times, lanes, color } = useMemo(() => {
    const order = names.split('\n').filter((each) => each !== 'default');
    const colored = (name: string) => laneColor(order.indexOf(name));
    const drawn = drawnOf(samples, direction, SPAN);
    return {
      times: drawn.times,
      color: colored,
      lanes: [...drawn.bits].map(([name, bits]) => ({ name, bits, color: colored(name) })),
    };
  }, [samples, direction, names]);
  return (
    <Page
      crumbs={<LiveCrumbs />}
      title={
        <>
          {pod.slice(pod.indexOf('/') + 1)}
          <LivePill standing={standing} />
        </>
      }
      sub={row && (row.policy || t.workloads.own)}
      actions={
        <Link
          className="btn"
          to="/t/$tenant/workloads"
          params={{ tenant }}
          search={{ agent: `${cluster}/${node}`, pod }}
        >
          {l.inForce}
        </Link>
      }
    >
      {problem && <ProblemNote error={problem} />}
      {silent && <p className="note">{l.podSilent(pod, node)}</p>}
      <div className={`two ${standing?.state === 'away' ? 'stale' : ''}`}>
        <div className="stack">
          <section className="panel" aria-label={l.sinceNow}>
            <div className="panel-head">
              <h2>{l.sinceNow}</h2>
              <div className="legend right">
                {lanes.map((each) => (
                  <span key={each.name}>
                    <i className="dot" style={{ background: each.color }} />
                    {each.name}
                  </span>
                ))}
              </div>
            </div>
            <div style={{ padding: '6px 10px', minHeight: 222 }}>
              {lanes.length > 0 ? (
                <Stacked
                  height={210}
                  times={times}
                  lanes={lanes}
                  markers={[]}
                  label={l.togetherSays(pod, lanes.length)}
                />
              ) : (
                !silent && <Skeleton width="100%" height={210} />
              )}
            </div>
          </section>
          {stands && <LanesTable stands={stands} color={color} />}
          <Connections cluster={cluster} node={node} pod={pod} color={color} />
        </div>
        <Waiting stands={stands} color={color} />
      </div>
    </Page>
  );
}
