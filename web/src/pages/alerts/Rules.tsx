import { IconPlus } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useState } from 'react';
import { alertRules } from '../../api/queries';
import { useRole, useTenant } from '../../parts/hooks';
import { Fresh, ReadOnly, Skeleton } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { type Rule, secondsText, tellValue, thresholdText } from './model';
import { SeverityPill } from './pills';
import { RuleDialog } from './RuleDialog';

const route = getRouteApi('/t/$tenant/alerts');
const TONES: Record<string, string> = { firing: 'bad', pending: 'warn', inactive: 'ok' };

/** All rules, with what each sees now. */
export function Rules() {
  const t = useTexts();
  const r = t.alerts.rules;
  const tenant = useTenant();
  const { role, may } = useRole();
  const asked = route.useSearch();
  const navigate = route.useNavigate();
  const list = useQuery(alertRules(tenant));
  const [making, setMaking] = useState(false);
  const found = list.data?.items;
  const chosen = found?.find((each) => each.name === asked.rule);
  return (
    <>
      {role && !may('operator') && <ReadOnly role={role} needed="operator" />}
      <section className="panel" aria-label={t.alerts.tabs.rules}>
        <div className="panel-head">
          <h2>{t.alerts.tabs.rules}</h2>
          {may('editor') && (
            <button type="button" className="btn small right" onClick={() => setMaking(true)}>
              <IconPlus size={14} aria-hidden />
              {r.make}
            </button>
          )}
        </div>
        <Fresh query={list}>
          {!found && (
            <div className="pad">
              <Skeleton width="100%" height={120} />
            </div>
          )}
          {found?.length === 0 && (
            <div className="empty">
              <h2>{r.none}</h2>
              <p>{r.noneRemedy}</p>
            </div>
          )}
          {found && found.length > 0 && (
            <table className="table">
              <thead>
                <tr>
                  <th>{t.alerts.rule}</th>
                  <th>{r.threshold}</th>
                  <th className="wide">{t.alerts.severity}</th>
                  <th>{r.now}</th>
                </tr>
              </thead>
              <tbody>
                {found.map((each) => (
                  <tr key={each.name}>
                    <td>
                      <Link
                        data-row
                        to="/t/$tenant/alerts"
                        params={{ tenant }}
                        search={{ tab: 'rules', rule: each.name }}
                        resetScroll={false}
                      >
                        {each.name}
                      </Link>
                      <div className="sub">{t.alerts.kinds[each.kind] ?? each.kind}</div>
                      <div className="sub mono" style={{ overflowWrap: 'anywhere' }}>
                        {Object.entries(each.scope)
                          .map(([name, value]) => `${name}=${value}`)
                          .join('  ')}
                      </div>
                    </td>
                    <td className="num unbroken">
                      {beyond(each, r)}
                      {each.for > 0 && <div className="sub">{r.holdShort(secondsText(each.for))}</div>}
                    </td>
                    <td className="wide">
                      <SeverityPill severity={each.severity} />
                    </td>
                    <td>
                      <Now rule={each} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Fresh>
      </section>
      {making && <RuleDialog found={undefined} close={() => setMaking(false)} />}
      {chosen && (
        <RuleDialog
          key={chosen.name}
          found={chosen}
          close={() => void navigate({ search: { tab: 'rules' }, resetScroll: false })}
        />
      )}
    </>
  );
}

function beyond(rule: Rule, texts: { above: (value: string) => string; below: (value: string) => string }): string {
  const value = thresholdText(rule.kind, rule.threshold);
  return rule.kind === 'certificate-expiry' ? texts.below(value) : texts.above(value);
}

function Now({ rule }: { rule: Rule }) {
  const t = useTexts();
  const r = t.alerts.rules;
  const [worst] = rule.values;
  if (rule.state === null) return <span className="pill">{r.notLooked}</span>;
  return (
    <>
      <span className={`pill ${TONES[rule.state] ?? ''}`}>
        {rule.firing ? r.firing(rule.firing) : t.alerts.states[rule.state]}
      </span>
      <div className="sub num unbroken">{worst ? r.sees(tellValue(rule.kind, worst.value)) : r.nothingSeen}</div>
    </>
  );
}
