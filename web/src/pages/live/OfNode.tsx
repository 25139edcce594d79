import { getRouteApi } from '@tanstack/react-router';
import type { Schemas } from '../../api/client';
import { useWindow } from '../../live/useWindow';
import { useTenant } from '../../parts/hooks';
import { LivePill, Page, ProblemNote } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { BelowTable, controllerName, LiveCrumbs, To, useAskedLong } from './levels';
import { groupsOf, namespaceOf } from './podSeries';

const route = getRouteApi('/t/$tenant/live');
/** An agent tells of a hundred. */
const MOST = 100;

/** The Pods of an agent, and their namespaces or the workloads that they are of, each second. */
export function OfNode({ cluster, node }: { cluster: string; node: string }) {
  const t = useTexts();
  const l = t.live;
  const tenant = useTenant();
  const { namespace, controller } = route.useSearch();
  const { window, standing, problem } = useWindow<Schemas['LiveWorkload'], Schemas['LiveWorkloadTotals']>({
    tenant,
    topic: 'workloads',
    scope: { cluster, node, ...(namespace ? { namespace } : {}) },
    sort: '-bytes',
    limit: MOST,
  });
  const asked = useAskedLong(window?.at);
  const all = window && (window.rows.length > 0 || asked) ? window.rows : undefined;
  const told = controller ? all?.filter((each) => each.controller === controller) : all;
  const controlled = namespace && !controller ? told?.filter((each) => each.controller) : undefined;
  return (
    <Page
      crumbs={<LiveCrumbs />}
      title={
        <>
          {controller ? controllerName(controller) : (namespace ?? node)}
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
              groupsOf(told, namespaceOf).map(({ name, ...sums }) => ({
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
        {controlled && controlled.length > 0 && (
          <BelowTable
            title={l.controllers}
            name={l.controller}
            nothing=""
            rows={groupsOf(controlled, (each) => each.controller).map(({ name, ...sums }) => ({
              key: name,
              name: (
                <To place={{ cluster, node, namespace, controller: name }} row>
                  {controllerName(name)}
                </To>
              ),
              ...sums,
            }))}
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
              <To place={{ cluster, node, controller: each.controller, pod: each.workload }} row>
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
