import { getRouteApi } from '@tanstack/react-router';
import type { Schemas } from '../../api/client';
import { useWindow } from '../../live/useWindow';
import { useTenant } from '../../parts/hooks';
import { LivePill, Page, ProblemNote } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { BelowTable, LiveCrumbs, To, useAskedLong } from './levels';
import { namespacesOf } from './podSeries';

const route = getRouteApi('/t/$tenant/live');
/** An agent tells of a hundred. */
const MOST = 100;

/** The Pods of an agent, and their namespaces, each second. */
export function OfNode({ cluster, node }: { cluster: string; node: string }) {
  const t = useTexts();
  const l = t.live;
  const tenant = useTenant();
  const { namespace } = route.useSearch();
  const { window, standing, problem } = useWindow<Schemas['LiveWorkload'], Schemas['LiveWorkloadTotals']>({
    tenant,
    topic: 'workloads',
    scope: { cluster, node, ...(namespace ? { namespace } : {}) },
    sort: '-bytes',
    limit: MOST,
  });
  const asked = useAskedLong(window?.at);
  const told = window && (window.rows.length > 0 || asked) ? window.rows : undefined;
  return (
    <Page
      crumbs={<LiveCrumbs />}
      title={
        <>
          {namespace ?? node}
          <LivePill standing={standing} />
        </>
      }
      sub={namespace ? l.onNode(node) : undefined}
    >
      {problem && <ProblemNote error={problem} />}
      <div className={`stack ${standing?.state === 'away' ? 'stale' : ''}`}>
        {!namespace && (
          <BelowTable
            title={l.namespaces}
            name={l.namespace}
            nothing={t.workloads.noneTold}
            rows={
              told &&
              namespacesOf(told).map(({ name, ...sums }) => ({
                key: name,
                name: (
                  <To place={{ cluster, node, namespace: name }} row>
                    {name || '–'}
                  </To>
                ),
                ...sums,
              }))
            }
          />
        )}
        <BelowTable
          title={l.pods}
          name={t.workloads.pod}
          state={t.workloads.policy}
          nothing={t.workloads.noneTold}
          rows={told?.map((each) => ({
            key: each.workload,
            name: (
              <To place={{ cluster, node, pod: each.workload }} row>
                {each.workload}
              </To>
            ),
            state: each.policy || t.workloads.own,
            bytes: each.bytes,
            throttled: each.throttled,
            dropped: each.dropped,
          }))}
          more={window ? window.total - window.rows.length : 0}
        />
      </div>
    </Page>
  );
}
