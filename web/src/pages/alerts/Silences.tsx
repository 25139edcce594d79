import { IconPlus } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, type Schemas } from '../../api/client';
import { silences } from '../../api/queries';
import { dateTime } from '../../parts/format';
import { useRole, useTenant } from '../../parts/hooks';
import { Fresh, ProblemNote, ReadOnly, Skeleton } from '../../parts/parts';
import { useLanguage } from '../../text/language';
import { matcherText } from './model';
import { SilenceDialog } from './SilenceDialog';

const TONES: Record<string, string> = { active: 'warn', pending: 'accent', expired: '' };

export function Silences() {
  const { t, language } = useLanguage();
  const s = t.alerts.silence;
  const tenant = useTenant();
  const { role, may } = useRole();
  const queries = useQueryClient();
  const list = useQuery(silences(tenant));
  const [making, setMaking] = useState(false);
  const end = useMutation({
    mutationFn: ({ id, version }: Schemas['SilenceDocument']) =>
      api.DELETE('/v1/tenants/{tenant}/alerts/silences/{silence}', {
        params: { path: { tenant, silence: id }, header: { 'if-match': `"${version}"` } },
      }),
    // Also when it failed: somebody may have ended it before.
    onSettled: () => queries.invalidateQueries({ queryKey: ['t', tenant, 'alerts'] }),
  });
  const found = list.data?.items;
  return (
    <>
      {role && !may('operator') && <ReadOnly role={role} needed="operator" />}
      {end.isError && (
        <div style={{ marginBottom: 12 }}>
          <ProblemNote error={end.error} />
        </div>
      )}
      <section className="panel" aria-label={t.alerts.tabs.silences}>
        <div className="panel-head">
          <h2>{t.alerts.tabs.silences}</h2>
          {may('operator') && (
            <button type="button" className="btn small right" onClick={() => setMaking(true)}>
              <IconPlus size={14} aria-hidden />
              {s.make}
            </button>
          )}
        </div>
        <Fresh query={list}>
          {!found && (
            <div className="pad">
              <Skeleton width="100%" height={100} />
            </div>
          )}
          {found?.length === 0 && (
            <div className="empty">
              <h2>{s.none}</h2>
              <p>{s.noneRemedy}</p>
            </div>
          )}
          {found && found.length > 0 && (
            <table className="table">
              <thead>
                <tr>
                  <th>{t.alerts.state}</th>
                  <th>{s.matchers}</th>
                  <th>{s.until}</th>
                  <th className="wide">{s.comment}</th>
                  <th className="wide">{s.author}</th>
                  <th>
                    <span className="hidden">{s.end}</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {found.map((each) => {
                  const matchers = each.matchers.map(matcherText);
                  return (
                    <tr key={each.id}>
                      <td>
                        <span className={`pill ${TONES[each.state] ?? ''}`}>{s.states[each.state]}</span>
                      </td>
                      <td>
                        <div className="mono" style={{ overflowWrap: 'anywhere' }}>
                          {matchers.join('  ')}
                        </div>
                        {each.state !== 'expired' && <div className="sub num">{s.matchesNow(each.matches)}</div>}
                      </td>
                      <td className="num">
                        {dateTime(each.ends_at, language)}
                        {each.state === 'pending' && (
                          <div className="sub">
                            {s.from}: {dateTime(each.starts_at, language)}
                          </div>
                        )}
                      </td>
                      <td className="wide" style={{ overflowWrap: 'anywhere' }}>
                        {each.comment}
                      </td>
                      <td className="wide mono" style={{ overflowWrap: 'anywhere' }}>
                        {each.author}
                      </td>
                      <td className="r">
                        {may('operator') && each.state !== 'expired' && (
                          <button
                            type="button"
                            data-row
                            className="btn small"
                            disabled={end.isPending}
                            onClick={() => end.mutate(each)}
                            aria-label={`${s.end}: ${matchers.join(', ')}`}
                          >
                            {s.end}
                          </button>
                        )}
                      </td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          )}
        </Fresh>
      </section>
      {making && <SilenceDialog matchers={[]} close={() => setMaking(false)} />}
    </>
  );
}
