import { IconBell, IconPlus } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useState } from 'react';
import { budgets } from '../api/queries';
import { bytes, dateTime, short } from '../parts/format';
import { useRole, useTenant } from '../parts/hooks';
import { Fresh, Page, ReadOnly, Skeleton } from '../parts/parts';
import { useLanguage, useTexts } from '../text/language';
import { BudgetDialog } from './budgets/BudgetDialog';
import { type Budget, standOf } from './budgets/model';
import { type Done, UndoNote } from './budgets/UndoNote';

const route = getRouteApi('/t/$tenant/budgets');
const TONES = { over: 'bad', short: 'warn', lasts: 'ok' };
const COLORS = { over: 'var(--bad)', short: 'var(--amber)', lasts: 'var(--accent)' };

/** Budgets of bytes, with what is used of each: a tenant has a hundred at most. */
export function Budgets() {
  const t = useTexts();
  const b = t.budgets;
  const tenant = useTenant();
  const { role, may } = useRole();
  const asked = route.useSearch();
  const navigate = route.useNavigate();
  const list = useQuery(budgets(tenant));
  const [making, setMaking] = useState(false);
  const [done, setDone] = useState<Done | undefined>();
  const found = list.data?.items;
  const chosen = found?.find((each) => each.name === asked.budget);
  return (
    <Page
      title={t.nav.budgets}
      sub={<span className="wide">{b.sub}</span>}
      actions={
        <>
          <Link className="btn" to="/t/$tenant/alerts" params={{ tenant }} search={{ tab: 'rules' }}>
            <IconBell size={16} aria-hidden />
            {b.alerts}
          </Link>
          {may('operator') && (
            <button type="button" className="btn primary" onClick={() => setMaking(true)}>
              <IconPlus size={16} aria-hidden />
              {b.make}
            </button>
          )}
        </>
      }
    >
      {role && !may('operator') && <ReadOnly role={role} needed="operator" />}
      {done && <UndoNote key={done.says} done={done} end={() => setDone(undefined)} />}
      <section className="panel" aria-label={t.nav.budgets}>
        <Fresh query={list}>
          {!found && (
            <ul className="budgets">
              {[0, 1, 2].map((at) => (
                <li key={at} className="budget">
                  <Skeleton width="60%" height={36} />
                  <Skeleton width="100%" height={36} />
                  <Skeleton width={70} height={22} />
                </li>
              ))}
            </ul>
          )}
          {found?.length === 0 && (
            <div className="empty">
              <h2>{b.empty}</h2>
              <p>{b.emptyRemedy}</p>
            </div>
          )}
          {found && found.length > 0 && (
            <ul className="budgets">
              {found.map((each) => (
                <BudgetRow key={each.name} budget={each} />
              ))}
            </ul>
          )}
        </Fresh>
      </section>
      {making && <BudgetDialog found={undefined} close={() => setMaking(false)} tell={setDone} />}
      {chosen && (
        <BudgetDialog
          key={chosen.name}
          found={chosen}
          close={() => void navigate({ search: {}, resetScroll: false })}
          tell={setDone}
        />
      )}
    </Page>
  );
}

function BudgetRow({ budget }: { budget: Budget }) {
  const { t, language } = useLanguage();
  const b = t.budgets;
  const tenant = useTenant();
  const stand = standOf(budget);
  const when = (seconds: number) => dateTime(seconds, language);
  const { name, policy, class: lane, direction, used, share, period, until } = budget;
  const about = [
    policy && `${t.alerts.scopes.policy} ${policy}`,
    lane && `${t.alerts.scopes.class} ${lane}`,
    direction && (direction === 'egress' ? t.live.sent : t.live.received),
  ].filter(Boolean);
  return (
    <li className="budget">
      <div className="grow">
        <Link data-row to="/t/$tenant/budgets" params={{ tenant }} search={{ budget: name }} resetScroll={false}>
          <b>{name}</b>
        </Link>
        <div className="sub">{about.join(' · ') || b.allLanes}</div>
      </div>
      <div className="num">
        <div className="gate-track" aria-hidden="true">
          <i style={{ width: `${Math.min(1, share) * 100}%`, background: COLORS[stand] }} />
        </div>
        <div className="budget-says">
          <span>
            <b>{bytes(used)}</b> {b.of(bytes(budget.bytes), period)} · {short(share * 100)} %
          </span>
          <span className="sub">
            {stand === 'over' && `${b.beyond(bytes(used - budget.bytes))} · `}
            {budget.used_up === null ? b.until(when(until)) : b.usedUp(when(budget.used_up))}
          </span>
        </div>
      </div>
      <span className={`pill ${TONES[stand]}`} title={b.stateMeans[stand]}>
        {b.states[stand]}
      </span>
    </li>
  );
}
