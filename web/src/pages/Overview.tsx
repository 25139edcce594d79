import {
  IconAlertTriangle,
  IconArrowRight,
  IconBell,
  IconCircleCheck,
  IconCircleX,
  IconEdit,
  IconLoader2,
  IconTag,
} from '@tabler/icons-react';
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { Link, linkOptions, useNavigate } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import type { Schemas } from '../api/client';
import { agentsSummary, events, firingAlerts, names, policies } from '../api/queries';
import { count, duration } from '../parts/format';
import { useNow, useTenant } from '../parts/hooks';
import { Fresh, Page, Skeleton } from '../parts/parts';
import { useTexts } from '../text/language';
import { byRule, type RuleFiring } from './alerts/model';
import { Heat } from './fleet/Heat';

const MOST_NAMES = 50;
/** Of which the first are named. */
const NAMED = 4;

interface Attention {
  key: string;
  icon: ReactNode;
  says: string;
  why: string;
  go: () => void;
}

export function Overview() {
  const t = useTexts();
  const o = t.overview;
  const tenant = useTenant();
  const summary = useQuery(agentsSummary(tenant));
  const list = useInfiniteQuery(policies(tenant));
  const firing = useQuery(firingAlerts(tenant));
  const unsorted = useInfiniteQuery(names(tenant, { decided: ['default'] }, MOST_NAMES));
  const found = list.data?.pages.flatMap((page) => page.items) ?? [];
  const away = summary.data?.states.away ?? 0;
  const all = summary.data?.agents ?? 0;
  const inForce = found.filter((each) => each.in_force).length;
  const moving = found.filter((each) => each.rollout === 'running' || each.rollout === 'paused').length;
  const attention = useAttention(summary.data, found, byRule(firing.data?.items ?? []), unsorted.data?.pages[0]);
  // Who cannot be asked about alerts has the other things here all the same.
  const known = summary.data && list.data && !firing.isPending;
  const fresh = summary.data && list.data && (all === 0 || inForce === 0);
  return (
    <Page title={t.nav.overview}>
      <Fresh query={summary}>
        <div className="tiles four">
          <Tile
            name={o.connected}
            to="/t/$tenant/fleet"
            value={summary.data && count(all - away)}
            of={o.ofAll(count(all))}
          />
          <Tile
            name={o.inForce}
            to="/t/$tenant/policies"
            value={list.data && count(inForce)}
            of={o.ofAll(count(found.length))}
          />
          <Tile
            name={o.drafts}
            to="/t/$tenant/policies"
            value={list.data && count(found.filter((each) => each.draft).length)}
          />
          <Tile name={o.moving} to="/t/$tenant/rollouts" value={list.data && count(moving)} />
        </div>
        {fresh && <Steps agents={all > 0} policies={found.length > 0} inForce={inForce > 0} />}
        <div className="two">
          <div className="stack">
            <section className="panel" aria-label={o.attention}>
              <div className="panel-head">
                <h2>{o.attention}</h2>
              </div>
              {!known && (
                <div className="pad">
                  <Skeleton width="100%" height={90} />
                </div>
              )}
              {known && attention.length === 0 && (
                <div className="attention">
                  <IconCircleCheck size={19} color="var(--g)" aria-hidden />
                  <span>{o.nothing}</span>
                </div>
              )}
              {attention.map((each) => (
                <div className="attention" key={each.key}>
                  {each.icon}
                  <div className="grow">
                    <b>{each.says}</b>
                    <div className="sub">{each.why}</div>
                  </div>
                  <button
                    type="button"
                    data-row
                    className="btn small"
                    onClick={each.go}
                    aria-label={`${o.look}: ${each.says}`}
                  >
                    {o.look}
                    <IconArrowRight size={13} aria-hidden />
                  </button>
                </div>
              ))}
            </section>
            {summary.data && all > 0 && <Heat summary={summary.data} cluster={undefined} />}
          </div>
          <Recent />
        </div>
      </Fresh>
    </Page>
  );
}

function useAttention(
  summary: Schemas['AgentsSummary'] | undefined,
  found: Schemas['PolicyDocument'][],
  firing: RuleFiring[],
  unsorted: Schemas['Page_SeenNameDocument_'] | undefined,
): Attention[] {
  const t = useTexts();
  const o = t.overview;
  const tenant = useTenant();
  const navigate = useNavigate();
  const rollout = (policy: string) => () =>
    void navigate({ to: '/t/$tenant/rollouts/$policy', params: { tenant, policy } });
  const failed = summary?.states.failed ?? 0;
  const away = summary?.states.away ?? 0;
  const bad = <IconCircleX size={19} color="var(--r)" aria-hidden />;
  const warn = <IconAlertTriangle size={19} color="var(--amber)" aria-hidden />;
  const made: Attention[] = [];
  const fleet = (state: 'failed' | 'away') => () =>
    void navigate({ to: '/t/$tenant/fleet', params: { tenant }, search: { state } });
  for (const { rule, severity, count: n, summary: why } of firing) {
    const color = severity === 'critical' ? 'var(--r)' : severity === 'warning' ? 'var(--amber)' : 'var(--accent)';
    made.push({
      key: `a ${rule}`,
      icon: <IconBell size={19} color={color} aria-hidden />,
      says: o.fires(rule, n),
      why,
      go: () => void navigate({ to: '/t/$tenant/alerts', params: { tenant }, search: { only: 'firing', text: rule } }),
    });
  }
  if (failed) made.push({ key: 'failed', icon: bad, says: o.failed(failed), why: o.failedWhy, go: fleet('failed') });
  for (const { name, rollout: state } of found) {
    if (state === 'taken back')
      made.push({
        key: `b ${name}`,
        icon: bad,
        says: o.takenBack(name),
        why: t.rollouts.states['taken back'],
        go: rollout(name),
      });
    if (state === 'paused')
      made.push({
        key: `p ${name}`,
        icon: warn,
        says: o.paused(name),
        why: t.rollouts.states.paused,
        go: rollout(name),
      });
    if (state === 'running') {
      const icon = <IconLoader2 size={19} color="var(--accent)" className="turning" aria-hidden />;
      made.push({ key: `r ${name}`, icon, says: o.running(name), why: t.rollouts.states.running, go: rollout(name) });
    }
  }
  if (away) made.push({ key: 'away', icon: warn, says: o.away(away), why: o.awayWhy, go: fleet('away') });
  if (unsorted?.items.length) {
    const named = [...new Set(unsorted.items.map((each) => each.name))];
    made.push({
      key: 'names',
      icon: <IconTag size={19} color="var(--amber)" aria-hidden />,
      says: o.unsorted(`${named.length}${unsorted.next ? '+' : ''}`),
      why: `${named.slice(0, NAMED).join(', ')}${named.length > NAMED ? ' …' : ''}`,
      go: () => void navigate({ to: '/t/$tenant/names', params: { tenant }, search: { decided: 'none' } }),
    });
  }
  for (const { name, draft } of found) {
    const go = () => void navigate({ to: '/t/$tenant/policies/$policy', params: { tenant, policy: name } });
    if (draft)
      made.push({
        key: `d ${name}`,
        icon: <IconEdit size={19} color="var(--accent)" aria-hidden />,
        says: o.draft(name),
        why: o.draftWhy,
        go,
      });
  }
  return made;
}

function Tile({
  name,
  to,
  value,
  of,
}: {
  name: string;
  to: '/t/$tenant/fleet' | '/t/$tenant/policies' | '/t/$tenant/rollouts';
  value: string | undefined;
  of?: string;
}) {
  const tenant = useTenant();
  return (
    <Link className="panel tile" to={to} params={{ tenant }} activeProps={{}}>
      <div className="sub">{name}</div>
      <div className="value num">
        {value ?? <Skeleton width={50} height={22} />} <small>{of}</small>
      </div>
    </Link>
  );
}

/** What to do while there is nothing yet: done steps stay, so that one sees how far one is. */
function Steps({ agents, policies, inForce }: { agents: boolean; policies: boolean; inForce: boolean }) {
  const t = useTexts();
  const tenant = useTenant();
  const s = t.overview.steps;
  const steps = [
    {
      name: s.connect,
      why: s.connectWhy,
      done: agents,
      go: linkOptions({ to: '/t/$tenant/settings', params: { tenant } }),
    },
    {
      name: s.watch,
      why: s.watchWhy,
      done: policies,
      go: linkOptions({ to: '/t/$tenant/policies', params: { tenant }, search: { observe: true } }),
    },
    {
      name: s.sort,
      why: s.sortWhy,
      done: inForce,
      go: linkOptions({ to: '/t/$tenant/names', params: { tenant }, search: { decided: 'none' } }),
    },
  ];
  return (
    <section className="panel steps" aria-label={t.overview.begin}>
      <h2>{t.overview.begin}</h2>
      <ol>
        {steps.map((step, at) => (
          <li key={step.name}>
            <span className={`step-number ${step.done ? 'done' : ''}`}>
              {step.done ? <IconCircleCheck size={18} aria-label={t.overview.done} /> : at + 1}
            </span>
            <div>
              <Link {...step.go}>{step.name}</Link>
              <div className="sub">{step.why}</div>
            </div>
          </li>
        ))}
      </ol>
    </section>
  );
}

const SHOWN = 12;

function Recent() {
  const t = useTexts();
  const tenant = useTenant();
  const now = useNow(5000);
  const list = useInfiniteQuery(events(tenant, {}));
  return (
    <div className="panel">
      <div className="panel-head">
        <h2>{t.overview.recent}</h2>
        <Link className="right sub" to="/t/$tenant/audit" params={{ tenant }}>
          {t.overview.allOfIt}
        </Link>
      </div>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard */}
      <div className="timeline" tabIndex={0} role="region" aria-label={t.overview.recent}>
        {!list.data && <Skeleton width="100%" height={200} />}
        {list.data?.pages[0]?.items.slice(0, SHOWN).map((each) => (
          <div key={each.position}>
            <span className="sub num">{duration(now / 1000 - each.at / 1000)}</span>
            <span>
              <span className="mono">{each.subject}</span>: {t.events[each.kind] ?? each.kind}
              <span className="sub"> · {each.author}</span>
            </span>
          </div>
        ))}
      </div>
    </div>
  );
}
