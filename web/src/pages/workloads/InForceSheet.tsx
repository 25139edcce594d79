import { useQuery } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import { effectivePolicy } from '../../api/queries';
import { useTenant } from '../../parts/hooks';
import { Sheet } from '../../parts/overlays';
import { Fresh, Skeleton } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { toYaml } from '../policy/yaml';
import { type InForce, inForceOf } from './inForce';

interface SheetProps {
  cluster: string;
  node: string;
  workload: string;
  close: () => void;
}

/** What is in force for a workload, as its agent has it: it is asked now. */
export function InForceSheet({ cluster, node, workload, close }: SheetProps) {
  const tenant = useTenant();
  const query = useQuery(effectivePolicy(tenant, cluster, node, workload));
  return (
    <Sheet
      close={close}
      size={560}
      title={
        <>
          {workload}{' '}
          <span className="sub">
            {cluster}/{node}
          </span>
        </>
      }
    >
      <Fresh query={query}>
        {query.data ? <Details found={inForceOf(query.data.answer)} /> : <Skeleton width="100%" height={320} />}
      </Fresh>
    </Sheet>
  );
}

const TONES: Record<string, string> = { programmed: 'ok', waiting: 'accent', refused: 'bad', failed: 'bad' };

function Details({ found }: { found: InForce }) {
  const t = useTexts();
  const w = t.workloads;
  const facts: [string, ReactNode][] = [
    [
      t.fleet.state,
      <span key="state" className={`pill ${TONES[found.state] ?? ''}`}>
        {w.states[found.state] ?? found.state}
      </span>,
    ],
    [w.origin, <Origin key="origin" origin={found.origin} />],
    [w.datapath, [found.datapath || '–', found.datapathReason].filter(Boolean).join(': ')],
    [w.interface, found.interface || '–'],
    [w.hash, <span key="hash" className="mono">{`${found.hash.slice(0, 12) || '–'}`}</span>],
  ];
  return (
    <div className="stack" style={{ gap: 16 }}>
      {found.reason && (
        <div className={`note ${found.state === 'programmed' ? 'warn' : 'bad'}`}>
          <p>{found.reason}</p>
        </div>
      )}
      <dl className="facts num">
        {facts.map(([key, value]) => (
          <div key={key} style={{ display: 'contents' }}>
            <dt>{key}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {found.lost.length > 0 && (
        <div className="note bad">
          <p>
            <b>{w.lost}.</b> {found.lost.join(', ')}
          </p>
        </div>
      )}
      {found.warnings.map((each) => (
        <div key={each} className="note warn">
          <p>{each}</p>
        </div>
      ))}
      {found.values.length > 0 && (
        <section>
          <h2 style={{ marginBottom: 6 }}>{w.values}</h2>
          <table className="table num origins">
            <thead>
              <tr>
                <th>{w.what}</th>
                <th>{w.value}</th>
                <th>{w.from}</th>
              </tr>
            </thead>
            <tbody>
              {found.values.map((each) => (
                <tr key={each.what}>
                  <td>{each.what}</td>
                  <td>{each.value}</td>
                  <td className="sub">{each.from}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
      {found.overruled.length > 0 && (
        <section>
          <h2 style={{ marginBottom: 6 }}>{w.overruled}</h2>
          <ul className="plain-list">
            {found.overruled.map((each) => (
              <li key={each}>{each}</li>
            ))}
          </ul>
        </section>
      )}
      {!found.policy && <p className="sub">{w.nothingInForce}</p>}
      {found.policy && (
        <>
          <table className="table num">
            <thead>
              <tr>
                <th>{t.live.lane}</th>
                <th>{t.editor.rate}</th>
                <th>{t.editor.ceil}</th>
                <th>{t.editor.priority}</th>
              </tr>
            </thead>
            <tbody>
              {found.lanes.map((lane, at) => (
                <tr key={at}>
                  <td>{lane.name}</td>
                  <td>{lane.rate}</td>
                  <td>{lane.ceil}</td>
                  <td>{lane.priority}</td>
                </tr>
              ))}
              <tr>
                <td>
                  <b>{t.policies.total}</b>
                </td>
                <td colSpan={3}>{found.total}</td>
              </tr>
            </tbody>
          </table>
          <section>
            <h2 style={{ marginBottom: 6 }}>{w.whole}</h2>
            {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard */}
            <div className="scroll" tabIndex={0} role="region" aria-label={w.whole}>
              <code className="block mono" style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>
                {toYaml(found.policy)}
              </code>
            </div>
          </section>
        </>
      )}
    </div>
  );
}

function Origin({ origin }: { origin: InForce['origin'] }) {
  const t = useTexts();
  const tenant = useTenant();
  if (origin.from === 'own') return t.workloads.ownOrigin;
  if (origin.from === 'cluster') return origin.name;
  return (
    <Link to="/t/$tenant/policies/$policy" params={{ tenant, policy: origin.name }}>
      {t.workloads.fleetOrigin(origin.name)}
    </Link>
  );
}
