import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { type ReactNode, useState } from 'react';
import { api, reasonHeader, type Schemas } from '../../api/client';
import { agent } from '../../api/queries';
import { bytes, dateTime, duration } from '../../parts/format';
import { useNow, useRole, useTenant } from '../../parts/hooks';
import { Sheet } from '../../parts/overlays';
import { Fresh, ProblemNote, Skeleton, StatePill } from '../../parts/parts';
import { useLanguage, useTexts } from '../../text/language';

/** All that is known of one agent; `name` is CLUSTER/NODE. */
export function AgentDrawer({ name, close }: { name: string; close: () => void }) {
  const tenant = useTenant();
  const [cluster = '', node = ''] = name.split('/', 2);
  const query = useQuery(agent(tenant, cluster, node));
  return (
    <Sheet
      close={close}
      title={
        <>
          {node} <span className="sub">{cluster}</span>
        </>
      }
    >
      <Fresh query={query}>
        {query.data ? <Details found={query.data} close={close} /> : <Skeleton width="100%" height={320} />}
      </Fresh>
    </Sheet>
  );
}

function Details({ found, close }: { found: Schemas['AgentDetails']; close: () => void }) {
  const { t, language } = useLanguage();
  const tenant = useTenant();
  const { may } = useRole();
  const now = useNow(1000);
  const d = t.fleet.details;
  const facts: [string, ReactNode][] = [
    [t.fleet.state, <StatePill key="state" state={found.state} />],
    [d.inForce, found.revision || '–'],
    [d.desired, found.desired || '–'],
    [t.fleet.version, found.version || t.fleet.notKnown],
    [d.kernel, found.kernel || t.fleet.notKnown],
    [d.address, found.address || t.fleet.notKnown],
    [d.heard, found.heard ? duration(now / 1000 - found.heard) : t.fleet.notKnown],
    [t.fleet.joined, dateTime(found.joined, language)],
    [d.certificate, found.expires ? dateTime(found.expires, language) : t.fleet.notKnown],
    [d.cpu, found.cpu_ms ? duration(found.cpu_ms / 1000) : t.fleet.notKnown],
    [d.memory, found.memory ? bytes(found.memory) : t.fleet.notKnown],
    [
      d.labels,
      Object.entries(found.labels)
        .map(([key, value]) => `${key}=${value}`)
        .join(', ') || t.none,
    ],
  ];
  return (
    <div className="stack" style={{ gap: 16 }}>
      <p className="sub" style={{ margin: 0 }}>
        {t.states[found.state]}: {t.stateMeans[found.state]}.
      </p>
      {found.refusal && (
        <div className="note bad">
          <p>
            <b>{d.refusal}.</b> {found.refusal}
          </p>
        </div>
      )}
      {found.failures.length > 0 && (
        <section>
          <h2 style={{ marginBottom: 6 }}>{d.failures(found.failures.length)}</h2>
          {found.failures.map((each) => (
            <div key={each.workload} className="note bad" style={{ marginBottom: 6 }}>
              <p>
                <span className="mono">{each.workload}</span>{' '}
                {each.policy && <span className="pill">{each.policy}</span>}
                <br />
                {each.reason}
              </p>
            </div>
          ))}
        </section>
      )}
      {found.troubles.length > 0 && (
        <section>
          <h2 style={{ marginBottom: 6 }}>{d.troubles}</h2>
          {found.troubles.map((each) => (
            <div key={each} className="note warn" style={{ marginBottom: 6 }}>
              <p>{each}</p>
            </div>
          ))}
        </section>
      )}
      {found.ended && found.state === 'away' && (
        <div className="note warn">
          <p>
            <b>{d.ended}.</b> {found.ended}
          </p>
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
      <section>
        <h2 style={{ marginBottom: 6 }}>{d.abilities}</h2>
        <div style={{ display: 'flex', gap: 6, flexWrap: 'wrap' }}>
          {found.abilities.map((each) => (
            <span key={each} className="pill mono">
              {each}
            </span>
          ))}
          {found.abilities.length === 0 && <span className="sub">{d.noAbilities}</span>}
        </div>
      </section>
      <Link
        className="btn"
        style={{ justifySelf: 'start' }}
        to="/t/$tenant/workloads"
        params={{ tenant }}
        search={{ agent: `${found.cluster}/${found.node}` }}
      >
        {d.itsWorkloads}
      </Link>
      {may('administrator') && <Revoke cluster={found.cluster} node={found.node} close={close} />}
    </div>
  );
}

function Revoke({ cluster, node, close }: { cluster: string; node: string; close: () => void }) {
  const t = useTexts();
  const tenant = useTenant();
  const queries = useQueryClient();
  const [asking, setAsking] = useState(false);
  const [reason, setReason] = useState('');
  const revoke = useMutation({
    mutationFn: () =>
      api.DELETE('/v1/tenants/{tenant}/clusters/{cluster}/agents/{node}', {
        params: { path: { tenant, cluster, node }, header: { 'podlane-reason': reasonHeader(reason) } },
      }),
    onSuccess: () => {
      close();
      void queries.invalidateQueries({ queryKey: ['t', tenant, 'agents'] });
    },
  });
  const d = t.fleet.details;
  if (!asking) {
    return (
      <div>
        <button type="button" className="btn danger" onClick={() => setAsking(true)}>
          {d.revoke} …
        </button>
      </div>
    );
  }
  return (
    <form
      className="stack"
      onSubmit={(event) => {
        event.preventDefault();
        revoke.mutate();
      }}
    >
      <div className="note warn">
        <p>{d.revokeAsk(node)}</p>
      </div>
      <div className="field">
        <label htmlFor="reason">{d.revokeReason}</label>
        <input id="reason" className="input" value={reason} onChange={(event) => setReason(event.target.value)} />
      </div>
      {revoke.isError && <ProblemNote error={revoke.error} />}
      <div style={{ display: 'flex', gap: 8 }}>
        <button type="submit" className="btn danger" disabled={revoke.isPending}>
          {d.revoke}
        </button>
        <button type="button" className="btn" onClick={() => setAsking(false)}>
          {t.cancel}
        </button>
      </div>
    </form>
  );
}
