import { bytes, rate } from '../../parts/format';
import { useTexts } from '../../text/language';
import type { Stand } from './why';

/** In the order of the policy: sorted by how much they wait they would change places every second. */
export const waitingOf = (stands: Stand[]) => stands.filter((stand) => stand.why !== 'fine');

/** Who is waiting, and why, in a sentence each. Undefined: not known yet. */
export function Waiting({ stands, color }: { stands: Stand[] | undefined; color: (name: string) => string }) {
  const l = useTexts().live;
  const waiting = waitingOf(stands ?? []);
  return (
    <aside className="panel" aria-label={l.who}>
      <div className="panel-head">
        <h2>{l.who}</h2>
      </div>
      {stands && waiting.length === 0 && <p className="sub diff-none">{l.nobodyWaits}</p>}
      {waiting.map((stand) => (
        <div className="waits" key={stand.name}>
          <div className="gate-line">
            <b className="grow cut">
              <i className="dot" style={{ background: color(stand.name) }} /> {stand.name}
            </b>
            <b className="num" style={{ color: stand.why === 'ceiling' ? 'var(--warn)' : undefined }}>
              {stand.backlog >= 1 ? bytes(stand.backlog) : ''}
            </b>
          </div>
          <div className="sub">{l.why[stand.why](rate(stand.now), rate(stand.rate), rate(stand.ceil))}</div>
        </div>
      ))}
    </aside>
  );
}
