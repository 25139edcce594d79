import {
  IconArrowBackUp,
  IconCheck,
  IconCircleX,
  IconClock,
  IconLoader2,
  IconPlayerPause,
  IconPlayerPlay,
  IconShieldCheck,
  IconShieldX,
} from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { type ReactNode, useState } from 'react';
import { api, body, reasonHeader, type Schemas } from '../api/client';
import { eventsOf, rollout as rolloutQuery } from '../api/queries';
import { clock, count, dateTime, duration, short } from '../parts/format';
import { useRole, useTenant } from '../parts/hooks';
import { Dialog } from '../parts/overlays';
import { Fresh, Page, ProblemNote, ReadOnly, Skeleton } from '../parts/parts';
import { useLanguage, useTexts } from '../text/language';
import { COLORS, RolloutPill, Whole } from './rollout/parts';
import { partsOf, reasonsOf } from './rollout/progress';

const route = getRouteApi('/t/$tenant/rollouts/$policy');
type Found = Schemas['RolloutDocument'];

export function Rollout() {
  const t = useTexts();
  const tenant = useTenant();
  const { policy: name } = route.useParams();
  const query = useQuery(rolloutQuery(tenant, name));
  return (
    <Fresh query={query}>
      {query.data ? (
        <Shown found={query.data} />
      ) : (
        <Page title={name} crumbs={<span>{t.rollouts.title}</span>}>
          <Skeleton width="100%" height={420} />
        </Page>
      )}
    </Fresh>
  );
}

function Shown({ found }: { found: Found }) {
  const { t, language } = useLanguage();
  const r = t.rollouts;
  const tenant = useTenant();
  const { role, may } = useRole();
  const queries = useQueryClient();
  const events = useQuery({ ...eventsOf(tenant, `policy/${found.policy}`), refetchInterval: 4000 });
  const [asking, setAsking] = useState(false);
  const moving = found.state === 'running' || found.state === 'paused';
  const change = useMutation({
    mutationFn: ({ verb, reason }: { verb: 'pause' | 'resume' | 'abort'; reason?: string }) =>
      body(
        api.POST(`/v1/tenants/{tenant}/policies/{policy}/rollout/${verb}`, {
          params: { path: { tenant, policy: found.policy }, header: { 'podlane-reason': reasonHeader(reason ?? '') } },
        }),
      ),
    onSuccess: async () => {
      setAsking(false);
      await queries.invalidateQueries({ queryKey: ['t', tenant] });
    },
  });
  const published = events.data?.items.find(
    (each) => each.kind === 'PolicyPublished' && each.data.revision === found.revision,
  );
  const happened = (events.data?.items ?? [])
    .filter((each) => !published || each.position >= published.position)
    .filter((each) => each.kind in t.events);
  return (
    <Page
      crumbs={
        <>
          <Link to="/t/$tenant/rollouts" params={{ tenant }}>
            {r.title}
          </Link>
          / <span>{found.policy}</span>
        </>
      }
      title={
        <>
          {r.revision(found.revision)}
          {published?.reason ? ` · ${published.reason}` : ` · ${found.policy}`}
          <RolloutPill rollout={found} />
          {moving && <span className="pill">{r.stageOf(found.stage + 1, found.stages.length)}</span>}
        </>
      }
      sub={published && t.editor.history.by(published.author, dateTime(published.at / 1000, language))}
      actions={
        <>
          {moving && may('operator') && (
            <button
              type="button"
              className="btn"
              disabled={change.isPending}
              onClick={() => change.mutate({ verb: found.state === 'paused' ? 'resume' : 'pause' })}
            >
              {found.state === 'paused' ? <IconPlayerPlay size={16} /> : <IconPlayerPause size={16} />}
              {found.state === 'paused' ? r.resume : r.pause}
            </button>
          )}
          <Link
            className="btn"
            to="/t/$tenant/policies/$policy"
            params={{ tenant, policy: found.policy }}
            search={{ tab: 'history' }}
          >
            {r.whatChanged}
          </Link>
          {moving && may('operator') && (
            <button type="button" className="btn danger" onClick={() => setAsking(true)}>
              <IconArrowBackUp size={16} />
              {r.back(found.before)}
            </button>
          )}
        </>
      }
    >
      {role && moving && !may('operator') && <ReadOnly role={role} needed="operator" />}
      {change.isError && !asking && <ProblemNote error={change.error} />}
      {found.reason && (
        <div className={`note ${found.state === 'taken back' ? 'bad' : 'warn'}`} style={{ marginBottom: 12 }}>
          <IconCircleX size={18} />
          <p>
            <b>{r.reason}.</b> {found.reason}
          </p>
        </div>
      )}
      <Stages found={found} />
      <div className="two">
        <div className="stack">
          <Where found={found} />
          <Failures found={found} />
        </div>
        <aside className="stack">
          <GatesPanel found={found} />
          <div className="panel">
            <div className="panel-head">
              <h2>{r.timeline}</h2>
            </div>
            {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard */}
            <div className="timeline" tabIndex={0} role="region" aria-label={r.timeline}>
              {happened.map((each) => (
                <div key={each.position}>
                  <span className="sub num" title={dateTime(each.at / 1000, language)}>
                    {clock(each.at / 1000)}
                  </span>
                  <span>
                    {each.author && !each.kind.startsWith('Rollout') ? `${each.author} ` : ''}
                    {t.events[each.kind]}
                    {String(each.data.reason ?? '') || each.reason
                      ? `: ${String(each.data.reason ?? '') || each.reason}`
                      : ''}
                  </span>
                </div>
              ))}
              {!events.data && <Skeleton width="100%" height={60} />}
            </div>
          </div>
        </aside>
      </div>
      {asking && (
        <Back
          found={found}
          go={(reason) => change.mutate({ verb: 'abort', reason })}
          error={change.error}
          busy={change.isPending}
          close={() => setAsking(false)}
        />
      )}
    </Page>
  );
}

function Stages({ found }: { found: Found }) {
  const t = useTexts();
  const r = t.rollouts;
  const names = found.stages.map((stage) => (stage.percent === 100 ? r.everyone : stage.says));
  const parts = partsOf(found);
  const ended = found.state === 'done';
  const halted = found.state === 'taken back' || found.state === 'superseded';
  const reached = parts.agents - parts.notAsked || 1;
  return (
    <section className="panel" aria-label={r.stages} style={{ marginBottom: 12 }}>
      <ol className="stages">
        {names.map((name, at) => {
          const state =
            ended || at < found.stage ? 'passed' : at === found.stage ? (halted ? 'halted' : 'now') : 'next';
          return (
            <li key={`${at} ${name}`} aria-current={state === 'now' ? 'step' : undefined}>
              <div className="stage-name">
                <StageIcon state={state} />
                {name}
              </div>
              <div className="meter">
                {state === 'passed' && <span style={{ width: '100%', background: 'var(--g)' }} />}
                {state === 'halted' && <span style={{ width: '100%', background: 'var(--r)', opacity: 0.6 }} />}
                {state === 'now' &&
                  COLORS.map(
                    ([key, color]) =>
                      key !== 'notAsked' && (
                        <span key={key} style={{ width: `${(parts[key] / reached) * 100}%`, background: color }} />
                      ),
                  )}
              </div>
              <div className="sub num">
                {state === 'passed' && r.passed}
                {state === 'halted' && r.states[found.state]}
                {state === 'now' && r.now(count(parts.applied), count(parts.failed), count(parts.onItsWay))}
                {state === 'next' && r.after(names[at - 1] ?? '')}
              </div>
            </li>
          );
        })}
      </ol>
      {found.progress?.says && found.state === 'running' && (
        <p className="sub stage-says">
          <b>{r.says}:</b> {found.progress.says}
        </p>
      )}
    </section>
  );
}

function StageIcon({ state }: { state: 'passed' | 'halted' | 'now' | 'next' }): ReactNode {
  if (state === 'passed') return <IconCheck size={16} color="var(--g)" stroke={2.6} aria-hidden />;
  if (state === 'halted') return <IconCircleX size={16} color="var(--r)" aria-hidden />;
  if (state === 'now') return <IconLoader2 size={16} color="var(--accent)" className="turning" aria-hidden />;
  return <IconClock size={16} color="var(--ink3)" aria-hidden />;
}

function Where({ found }: { found: Found }) {
  const t = useTexts();
  const r = t.rollouts;
  const parts = partsOf(found);
  return (
    <section className="panel" aria-label={r.where}>
      <div className="panel-head">
        <h2>{r.where}</h2>
        <span className="sub right num">{found.progress ? r.ofAgents(count(parts.agents)) : ''}</span>
      </div>
      <div className="pad">
        {found.progress ? (
          <>
            <Whole rollout={found} height={18} />
            <div className="where-legend num">
              {COLORS.map(([key, color]) => (
                <div key={key}>
                  <span className="sub">
                    <i className="dot" style={{ background: color }} /> {r[key]}
                  </span>
                  <b style={{ color: key === 'failed' && parts.failed ? 'var(--bad)' : undefined }}>
                    {count(parts[key])}
                  </b>
                </div>
              ))}
            </div>
          </>
        ) : (
          <p className="sub" style={{ margin: 0 }}>
            {r.notLooked}
          </p>
        )}
      </div>
    </section>
  );
}

function Failures({ found }: { found: Found }) {
  const t = useTexts();
  const r = t.rollouts;
  const tenant = useTenant();
  const failures = found.progress?.failures ?? [];
  const reasons = reasonsOf(failures);
  const all = found.progress?.failed ?? 0;
  return (
    <section className="panel" aria-label={r.failures(all, reasons.length)}>
      <div className="panel-head">
        <h2>{r.failures(all, reasons.length)}</h2>
        {all > failures.length && <span className="sub right">{r.firstShown(failures.length)}</span>}
      </div>
      {reasons.length === 0 && <p className="sub diff-none">{r.nobody}</p>}
      {reasons.map((each) => (
        <div className="reason" key={each.why}>
          <b className="num">{each.agents.length}</b>
          <div className="grow">{each.why}</div>
          <div className="sub reason-agents">
            {each.agents.slice(0, 3).map((agent) => (
              <Link key={agent} to="/t/$tenant/fleet" params={{ tenant }} search={{ agent }} className="mono">
                {agent}
              </Link>
            ))}
            {each.agents.length > 3 && `+ ${each.agents.length - 3}`}
          </div>
        </div>
      ))}
    </section>
  );
}

interface Gates {
  failed: number;
  away: number;
  dropped: number | null;
  throttled: number | null;
  prometheus: { query: string; at_most: number }[];
}

function GatesPanel({ found }: { found: Found }) {
  const t = useTexts();
  const r = t.rollouts;
  const gates = found.gates as unknown as Gates;
  const readings = found.progress?.gates ?? [];
  const reading = (gate: string) => readings.find((each) => each.gate === gate);
  const share = (part: number) => `${short(part * 100)} %`;
  const running = found.state === 'running' || found.state === 'paused';
  const good = !readings.some((each) => each.tripped) && found.state !== 'taken back';
  return (
    <section className="panel" aria-label={r.gates}>
      <div className="panel-head">
        {good ? (
          <IconShieldCheck size={17} color="var(--g)" aria-hidden />
        ) : (
          <IconShieldX size={17} color="var(--r)" aria-hidden />
        )}
        <h2>{r.gates}</h2>
        <span className="right">
          {running ? (
            <span className={`pill ${good ? 'ok' : 'bad'}`}>{good ? r.within : r.tripped}</span>
          ) : (
            <span className="pill">{r.over}</span>
          )}
        </span>
      </div>
      <Gate name={r.gateFailed} reading={reading('failed')} say={count} of={r.ofReached} limit={gates.failed} />
      <Gate name={r.gateAway} reading={reading('away')} say={share} of={r.shareReached} limit={gates.away} />
      {(['dropped', 'throttled'] as const).map((gate) => {
        const factor = gates[gate];
        const before = reading(gate)?.before;
        return (
          factor !== null && (
            <Gate
              key={gate}
              name={gate === 'dropped' ? r.gateDropped : r.gateThrottled}
              reading={reading(gate)}
              say={share}
              of={before == null ? r.tooFew(r.factor(factor)) : r.against(r.factor(factor), share(before))}
            />
          )
        );
      })}
      {gates.prometheus.map((each) => (
        <Gate
          key={each.query}
          name={<span className="mono">{each.query}</span>}
          reading={reading(each.query)}
          say={short}
          of="Prometheus"
          limit={each.at_most}
        />
      ))}
      <p className="sub gate-foot">{r.watched(duration(found.soak))}</p>
    </section>
  );
}

/** What a gate has seen against its limit, which is known before it has seen anything, but for factors. */
function Gate({
  name,
  reading,
  say,
  of,
  limit = reading?.limit ?? undefined,
}: {
  name: ReactNode;
  reading: Schemas['GateDocument'] | undefined;
  say: (value: number) => string;
  of: string;
  limit?: number | undefined;
}) {
  const r = useTexts().rollouts;
  const { value = null, tripped = false } = reading ?? {};
  const share = value === null || limit === undefined ? undefined : limit ? value / limit : value ? 1 : 0;
  return (
    <div className={tripped ? 'gate tripped' : 'gate'}>
      <div className="gate-line">
        {tripped && <IconCircleX size={16} color="var(--r)" aria-hidden />}
        <span className="grow cut">{name}</span>
        {tripped && <span className="pill bad">{r.thisGate}</span>}
        {value !== null && <b className="num">{say(value)}</b>}
      </div>
      {share !== undefined && (
        <div className="gate-track" aria-hidden="true">
          <i
            style={{
              width: `${Math.min(1, share) * 100}%`,
              background: tripped ? 'var(--r)' : share > 0.65 ? 'var(--amber)' : 'var(--g)',
            }}
          />
          <u />
        </div>
      )}
      <div className="sub gate-line">
        <span className="grow">{of}</span>
        {limit !== undefined && r.limit(say(limit))}
      </div>
    </div>
  );
}

function Back({
  found,
  go,
  error,
  busy,
  close,
}: {
  found: Found;
  go: (reason: string) => void;
  error: Error | null;
  busy: boolean;
  close: () => void;
}) {
  const t = useTexts();
  const r = t.rollouts;
  const [reason, setReason] = useState('');
  return (
    <Dialog title={r.back(found.before)} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          go(reason);
        }}
      >
        <p style={{ margin: 0 }}>{r.askBack(found.before)}</p>
        <div className="field">
          <label htmlFor="back-reason">{r.why}</label>
          <input
            id="back-reason"
            data-autofocus
            className="input"
            value={reason}
            onChange={(event) => setReason(event.target.value)}
          />
        </div>
        {error && <ProblemNote error={error} />}
        <div>
          <button type="submit" className="btn danger" disabled={busy}>
            {r.back(found.before)}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
