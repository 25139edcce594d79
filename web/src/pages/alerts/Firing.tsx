import { IconBellOff } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { type ReactNode, useEffect, useState } from 'react';
import type { Schemas } from '../../api/client';
import { alertRules, alertsOf } from '../../api/queries';
import { useWindow } from '../../live/useWindow';
import { count, dateTime, duration } from '../../parts/format';
import { useNow, useRole, useSettled, useTenant } from '../../parts/hooks';
import { Sheet } from '../../parts/overlays';
import { Fresh, LivePill, ProblemNote, ReadOnly, Skeleton } from '../../parts/parts';
import { useLanguage, useTexts } from '../../text/language';
import { matchersFor, tellValue } from './model';
import { About, SeverityPill } from './pills';
import { SilenceDialog } from './SilenceDialog';

type Row = Schemas['LiveAlert'];

const route = getRouteApi('/t/$tenant/alerts');
/** As many as a window may have. */
const MOST = 500;

/** What fires, and the last that is over, as the control plane decides it. */
export function Firing() {
  const t = useTexts();
  const a = t.alerts;
  const tenant = useTenant();
  const { role, may } = useRole();
  const asked = route.useSearch();
  const navigate = route.useNavigate();
  const now = useNow(1000) / 1000;
  const [text, setText] = useState(asked.text ?? '');
  const settled = useSettled(text.trim(), 250);
  const [known, setKnown] = useState(asked.text);
  if (known !== asked.text) {
    // The address has changed: by what was written here, or by a link.
    setKnown(asked.text);
    if ((asked.text ?? '') !== settled) setText(asked.text ?? '');
  }
  useEffect(() => {
    void navigate({ search: (before) => ({ ...before, text: settled || undefined }), replace: true });
  }, [settled, navigate]);
  const filter = { ...(asked.only ? { state: asked.only } : {}), ...(asked.text ? { text: asked.text } : {}) };
  const { window, standing, problem } = useWindow<Row, Schemas['LiveAlertTotals']>({
    tenant,
    topic: 'alerts',
    filter,
    limit: MOST,
  });
  const rules = useQuery(alertRules(tenant));
  const [silencing, setSilencing] = useState<Row | undefined>();
  const rows = window && [...window.rows].sort((one, other) => rank(one) - rank(other));
  const filtered = Boolean(asked.only || asked.text);
  return (
    <>
      {role && !may('operator') && <ReadOnly role={role} needed="operator" />}
      <section className="panel" aria-label={a.tabs.firing}>
        <div className="filters">
          <input
            className="input"
            type="search"
            aria-label={a.find}
            placeholder={a.find}
            value={text}
            onChange={(event) => setText(event.target.value)}
          />
          <div className="segments" role="group" aria-label={a.state}>
            {([undefined, 'firing', 'resolved'] as const).map((only) => (
              <button
                key={only ?? ''}
                type="button"
                aria-pressed={asked.only === only}
                onClick={() => void navigate({ search: (before) => ({ ...before, only }) })}
              >
                {only ? a.states[only] : a.all}
              </button>
            ))}
          </div>
          <LivePill standing={standing} />
          {window && (
            <span className="count num" role="status">
              {a.fires(count(window.totals.firing), window.totals.silenced)}
            </span>
          )}
        </div>
        {problem && (
          <div className="pad">
            <ProblemNote error={problem} />
          </div>
        )}
        <div className={standing?.state === 'away' ? 'stale' : undefined}>
          {!rows && !problem && (
            <div className="pad">
              <Skeleton width="100%" height={160} />
            </div>
          )}
          {rows?.length === 0 && (
            <div className="empty">
              <h2>{filtered ? a.noMatch : a.nothing}</h2>
              {!filtered && <p>{rules.data?.items.length === 0 ? a.noRules : a.nothingRemedy}</p>}
              {!filtered && rules.data?.items.length === 0 && (
                <Link className="btn" to="/t/$tenant/alerts" params={{ tenant }} search={{ tab: 'rules' }}>
                  {a.tabs.rules}
                </Link>
              )}
            </div>
          )}
          {rows && rows.length > 0 && (
            <table className="table">
              <thead>
                <tr>
                  <th>{a.severity}</th>
                  <th>{a.alert}</th>
                  <th className="wide">{a.state}</th>
                  <th className="wide">{a.since}</th>
                  <th>
                    <span className="hidden">{a.silence.go}</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {rows.map((each) => (
                  <tr key={each.id}>
                    <td>
                      <SeverityPill severity={each.severity} over={each.state !== 'firing'} />
                    </td>
                    <td>
                      <Link
                        data-row
                        from="/t/$tenant/alerts"
                        to="/t/$tenant/alerts"
                        params={{ tenant }}
                        search={(before) => ({ ...before, alert: each.id, rule: each.rule })}
                        resetScroll={false}
                      >
                        {saysOf(each)}
                      </Link>
                      <div>
                        <About labels={each.labels} />
                      </div>
                    </td>
                    <td className="wide">
                      <State alert={each} />
                    </td>
                    <td className="wide num">
                      {each.ended ? a.lasted(duration(each.ended - each.at)) : duration(now - each.at)}
                    </td>
                    <td className="r">
                      {may('operator') && each.state === 'firing' && each.silenced_by.length === 0 && (
                        <button
                          type="button"
                          className="btn small"
                          onClick={() => setSilencing(each)}
                          aria-label={a.silence.of(saysOf(each))}
                        >
                          <IconBellOff size={14} aria-hidden />
                          <span className="wide">{a.silence.go}</span>
                        </button>
                      )}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
          {window && window.total > window.rows.length && (
            <p className="sub diff-none">{a.firstOf(window.rows.length, count(window.total))}</p>
          )}
        </div>
      </section>
      {silencing && <SilenceDialog matchers={matchersFor(silencing.labels)} close={() => setSilencing(undefined)} />}
      {asked.alert && asked.rule && (
        <AlertSheet
          id={asked.alert}
          rule={asked.rule}
          close={() =>
            void navigate({
              search: (before) => ({ ...before, alert: undefined, rule: undefined }),
              resetScroll: false,
            })
          }
        />
      )}
    </>
  );
}

const rank = (alert: Row) => (alert.state === 'firing' ? 0 : 1);

const saysOf = (alert: { rule: string; annotations: Record<string, string> }) =>
  alert.annotations.summary || alert.rule;

function State({ alert }: { alert: { state: string; silenced_by: string[] } }) {
  const t = useTexts();
  const firing = alert.state === 'firing';
  return (
    <>
      <span className={`pill ${firing ? 'bad' : 'ok'}`}>{t.alerts.states[alert.state] ?? alert.state}</span>
      {firing && alert.silenced_by.length > 0 && (
        <span className="pill" style={{ marginLeft: 4 }}>
          {t.alerts.silenced}
        </span>
      )}
    </>
  );
}

/** All that is known of one alert, and who was told of it. */
function AlertSheet({ id, rule, close }: { id: string; rule: string; close: () => void }) {
  const t = useTexts();
  const tenant = useTenant();
  const query = useQuery(alertsOf(tenant, rule));
  const found = query.data?.items.find((each) => each.id === id);
  return (
    <Sheet title={rule} close={close}>
      <Fresh query={query}>
        {!query.data && <Skeleton width="100%" height={240} />}
        {query.data && !found && <p className="sub">{t.alerts.noMatch}</p>}
        {found && <Details found={found} />}
      </Fresh>
    </Sheet>
  );
}

function Details({ found }: { found: Schemas['AlertDocument'] }) {
  const { t, language } = useLanguage();
  const a = t.alerts;
  const tenant = useTenant();
  const { may } = useRole();
  const [silencing, setSilencing] = useState(false);
  const kind = found.labels.kind as Schemas['AlertKind'] | undefined;
  const facts: [string, ReactNode][] = [
    [a.severity, <SeverityPill key="severity" severity={found.severity} over={found.state !== 'firing'} />],
    [a.state, <State key="state" alert={found} />],
    [a.value, kind ? tellValue(kind, found.value) : String(found.value)],
    [a.beyond, dateTime(found.since, language)],
    [a.fired, dateTime(found.at, language)],
    ...(found.ended
      ? ([
          [a.ended, dateTime(found.ended, language)],
          [a.overWhy, found.reason],
        ] as [string, ReactNode][])
      : []),
    [a.about, <About key="about" labels={found.labels} />],
    [
      a.rule,
      <Link key="rule" to="/t/$tenant/alerts" params={{ tenant }} search={{ tab: 'rules', rule: found.rule }}>
        {found.rule}
      </Link>,
    ],
  ];
  return (
    <div className="stack" style={{ gap: 16 }}>
      <p style={{ margin: 0 }}>{saysOf(found)}</p>
      <dl className="facts num">
        {facts.map(([key, value]) => (
          <div key={key} style={{ display: 'contents' }}>
            <dt>{key}</dt>
            <dd>{value}</dd>
          </div>
        ))}
        {Object.entries(found.annotations)
          .filter(([name]) => name !== 'summary')
          .map(([name, value]) => (
            <div key={name} style={{ display: 'contents' }}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
      </dl>
      <section>
        <h2 style={{ marginBottom: 6 }}>{a.told}</h2>
        {found.told.length === 0 && <p className="sub">{a.toldNobody}</p>}
        {found.told.map((each) => (
          <div key={each.channel} className={`note ${each.trouble ? 'bad' : 'info'}`} style={{ marginBottom: 6 }}>
            <p>
              <b>{each.channel}</b>: {each.trouble || (a.toldState[each.state] ?? each.state)}
            </p>
          </div>
        ))}
      </section>
      {may('operator') && found.state === 'firing' && found.silenced_by.length === 0 && (
        <button type="button" className="btn" style={{ justifySelf: 'start' }} onClick={() => setSilencing(true)}>
          <IconBellOff size={15} aria-hidden />
          {a.silence.go}
        </button>
      )}
      {silencing && <SilenceDialog matchers={matchersFor(found.labels)} close={() => setSilencing(false)} />}
    </div>
  );
}
