import { Link } from '@tanstack/react-router';
import type { Schemas } from '../../api/client';
import type { AgentState } from '../../api/queries';
import { count } from '../../parts/format';
import { useTenant } from '../../parts/hooks';
import { useTexts } from '../../text/language';
import { agentsOfSquare, squares } from './squares';

const COLORS: Record<AgentState, string> = {
  'in-sync': 'var(--g)',
  behind: 'var(--b)',
  failed: 'var(--r)',
  away: 'var(--n)',
};
const ORDER: AgentState[] = ['in-sync', 'behind', 'failed', 'away'];

/** Each cluster as squares: how many agents of it are in which state. Where in the cluster they are is not told. */
export function Heat({ summary, cluster }: { summary: Schemas['AgentsSummary']; cluster: string | undefined }) {
  const t = useTexts();
  const tenant = useTenant();
  const size = agentsOfSquare(summary.clusters.map((each) => each.agents));
  const shown = summary.clusters.filter((each) => each.agents > 0 && (!cluster || each.cluster === cluster));
  return (
    <section className="panel" aria-label={t.fleet.where}>
      <div className="panel-head">
        <h2>{t.fleet.where}</h2>
        <div className="legend right">
          {ORDER.map((state) => (
            <span key={state}>
              <i className="dot" style={{ background: COLORS[state] }} />
              {t.states[state]}
            </span>
          ))}
          <span className="wide">{size === 1 ? t.fleet.squareOne : t.fleet.square(count(size))}</span>
        </div>
      </div>
      {shown.map((each) => (
        <div className="places" key={each.cluster}>
          <div>
            <Link
              to="/t/$tenant/fleet"
              params={{ tenant }}
              search={(now) => ({ ...now, cluster: each.cluster })}
              style={{ color: 'inherit', fontWeight: 650, textDecoration: 'none' }}
            >
              {each.cluster}
            </Link>
            <div className="sub">{t.fleet.agents(each.agents, count(each.agents))}</div>
          </div>
          <div
            className="heat"
            role="img"
            aria-label={ORDER.map((state) => `${t.states[state]}: ${each.states[state] ?? 0}`).join(', ')}
          >
            {squares(each.states, size).map((square, at) => (
              <i key={at} style={{ background: paint(square) }} />
            ))}
          </div>
          <div className="num r" style={{ display: 'flex', gap: 14, justifyContent: 'flex-end', fontSize: 12.5 }}>
            <span>
              <b>{count(each.states['in-sync'] ?? 0)}</b>{' '}
              <span className="sub">{t.states['in-sync'].toLowerCase()}</span>
            </span>
            <span style={{ color: each.states.failed ? 'var(--bad)' : 'var(--ink3)' }}>
              <b>{count(each.states.failed ?? 0)}</b> {t.states.failed.toLowerCase()}
            </span>
          </div>
        </div>
      ))}
    </section>
  );
}

/** A square in which some have failed has a corner of that colour, so that one of twenty is no red square. */
function paint({ most, failed }: { most: AgentState; failed: boolean }): string {
  return failed && most !== 'failed'
    ? `linear-gradient(135deg, ${COLORS.failed} 46%, ${COLORS[most]} 46%)`
    : COLORS[most];
}
