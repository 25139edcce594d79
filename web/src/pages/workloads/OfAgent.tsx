import { useInfiniteQuery } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useState } from 'react';
import type { Schemas } from '../../api/client';
import { agents } from '../../api/queries';
import { useWindow } from '../../live/useWindow';
import { bytes, count, rate, short } from '../../parts/format';
import { useSettled, useTenant } from '../../parts/hooks';
import { LivePill, ProblemNote, Skeleton } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { placeOf } from './inForce';

const route = getRouteApi('/t/$tenant/workloads');
/** An agent tells of a hundred. */
const MOST = 100;
const OFFERED = 20;
const NAME = /^[a-z0-9.-]{0,253}$/;

/** The workloads of one agent: which, is asked first, as there may be very many. */
export function OfAgent() {
  const t = useTexts();
  const w = t.workloads;
  const tenant = useTenant();
  const asked = route.useSearch();
  const navigate = route.useNavigate();
  const [text, setText] = useState(asked.agent ?? '');
  const [known, setKnown] = useState(asked.agent);
  if (known !== asked.agent) {
    setKnown(asked.agent);
    setText(asked.agent ?? '');
  }
  const settled = useSettled(text.trim().toLowerCase(), 200);
  const node = settled.slice(settled.indexOf('/') + 1);
  const list = useInfiniteQuery({
    ...agents(tenant, node ? { node } : {}),
    enabled: NAME.test(node),
    refetchInterval: false,
  });
  const offered = list.data?.pages[0]?.items.slice(0, OFFERED) ?? [];
  const place = placeOf(asked.agent ?? '');
  return (
    <section className="panel" aria-label={w.ofAgent} style={{ marginTop: 12 }}>
      <div className="panel-head">
        <h2>{w.ofAgent}</h2>
        <div className="right">
          <input
            className="input mono"
            type="search"
            list="agents-offered"
            aria-label={w.agentHint}
            placeholder={w.agentHint}
            value={text}
            onChange={(event) => {
              const written = event.target.value;
              setText(written);
              if (offered.some((each) => `${each.cluster}/${each.node}` === written))
                void navigate({ search: { agent: written }, resetScroll: false });
            }}
            onKeyDown={(event) => {
              if (event.key === 'Enter' && placeOf(text))
                void navigate({ search: { agent: text.trim() }, resetScroll: false });
            }}
          />
          <datalist id="agents-offered">
            {offered.map((each) => (
              <option key={`${each.cluster}/${each.node}`} value={`${each.cluster}/${each.node}`} />
            ))}
          </datalist>
        </div>
      </div>
      {place ? (
        <Running key={asked.agent} cluster={place.cluster} node={place.node} />
      ) : (
        <p className="sub diff-none">{w.chooseAgent}</p>
      )}
    </section>
  );
}

function Running({ cluster, node }: { cluster: string; node: string }) {
  const t = useTexts();
  const w = t.workloads;
  const tenant = useTenant();
  const { window, standing, problem } = useWindow<Schemas['LiveWorkload'], Schemas['LiveWorkloadTotals']>({
    tenant,
    topic: 'workloads',
    scope: { cluster, node },
    limit: MOST,
  });
  if (problem) {
    return (
      <div className="pad">
        <ProblemNote error={problem} />
      </div>
    );
  }
  if (!window) {
    return (
      <div className="pad">
        <Skeleton width="100%" height={120} />
      </div>
    );
  }
  return (
    <div className={standing?.state === 'away' ? 'stale' : undefined}>
      <div className="filters">
        <LivePill standing={standing} />
        <span className="count num">{count(window.total)}</span>
      </div>
      {window.rows.length === 0 && <p className="sub diff-none">{w.noneTold}</p>}
      {window.rows.length > 0 && (
        <table className="table num">
          <thead>
            <tr>
              <th>{w.pod}</th>
              <th className="wide">{w.policy}</th>
              <th className="r">{t.live.nowColumn}</th>
              <th className="r wide">{t.live.backlog}</th>
              <th className="r">{t.live.waits}</th>
            </tr>
          </thead>
          <tbody>
            {window.rows.map((each) => (
              <tr key={each.workload}>
                <td className="mono" style={{ overflowWrap: 'anywhere' }}>
                  <InForceLink agent={`${cluster}/${node}`} pod={each.workload} />
                </td>
                <td className="wide">{each.policy || <span className="sub">{w.own}</span>}</td>
                <td className="r">{rate(each.bytes * 8)}</td>
                <td className="r wide">{bytes(each.backlog)}</td>
                <td className="r">{t.live.times(short(each.throttled))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  );
}

/** Leads to what is in force for a workload. */
export function InForceLink({ agent, pod }: { agent: string; pod: string }) {
  const tenant = useTenant();
  return (
    <Link data-row to="/t/$tenant/workloads" params={{ tenant }} search={{ agent, pod }} resetScroll={false}>
      {pod}
    </Link>
  );
}
