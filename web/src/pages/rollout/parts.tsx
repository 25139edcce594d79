import type { Schemas } from '../../api/client';
import { useTexts } from '../../text/language';
import { type Parts, partsOf } from './progress';

type Rollout = Schemas['RolloutDocument'];
const LOOKS = { running: 'accent', paused: 'warn', done: 'ok', 'taken back': 'bad', superseded: '' } as const;

export function RolloutPill({ rollout }: { rollout: Rollout }) {
  const t = useTexts();
  return <span className={`pill ${LOOKS[rollout.state]}`}>{t.rollouts.states[rollout.state]}</span>;
}

export const COLORS: [keyof Parts & ('applied' | 'onItsWay' | 'failed' | 'away' | 'notAsked'), string][] = [
  ['applied', 'var(--g)'],
  ['onItsWay', 'var(--b)'],
  ['failed', 'var(--r)'],
  ['away', 'var(--amber)'],
  ['notAsked', 'var(--n)'],
];

/** All agents in one bar. */
export function Whole({ rollout, height = 8 }: { rollout: Rollout; height?: number }) {
  const t = useTexts();
  const parts = partsOf(rollout);
  const told = COLORS.map(([key]) => `${t.rollouts[key]}: ${parts[key]}`).join(', ');
  return (
    <div className="meter" style={{ height }} role="img" aria-label={told}>
      {COLORS.map(
        ([key, color]) =>
          key !== 'notAsked' &&
          parts[key] > 0 && (
            <span key={key} style={{ width: `${(parts[key] / (parts.agents || 1)) * 100}%`, background: color }} />
          ),
      )}
    </div>
  );
}
