import { bytes, count, rate, short } from '../../parts/format';
import { useTexts } from '../../text/language';
import type { Stand } from './why';

/** Lanes as numbers: the table of `podlane top`. */
export function LanesTable({ stands, color }: { stands: Stand[]; color: (name: string) => string }) {
  const t = useTexts();
  const l = t.live;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard
    <section className="panel scroll" aria-label={l.table} tabIndex={0}>
      <table className="table num">
        <thead>
          <tr>
            <th>{l.lane}</th>
            <th className="r wide">{t.editor.rate}</th>
            <th className="r wide">{t.editor.ceil}</th>
            <th>{l.nowColumn}</th>
            <th className="r wide">{l.borrowed}</th>
            <th className="r">{l.waits}</th>
            <th className="r wide">{l.backlog}</th>
            <th className="r wide">{l.drops}</th>
            <th className="r wide">{l.pods}</th>
          </tr>
        </thead>
        <tbody>
          {stands.map((stand) => (
            <tr key={stand.name}>
              <td>
                <span className="lane-name">
                  <i className="dot" style={{ background: color(stand.name) }} />
                  {stand.name}
                </span>
              </td>
              <td className="r wide">{rate(stand.rate)}</td>
              <td className="r wide">{rate(stand.ceil)}</td>
              <td>
                <span className="small-meter wide" aria-hidden="true">
                  <i
                    style={{
                      width: `${Math.min(1, stand.now / (stand.ceil || 1)) * 100}%`,
                      background: color(stand.name),
                    }}
                  />
                </span>
                <b>{rate(stand.now)}</b>
              </td>
              <td className="r wide">{stand.now > stand.rate * 1.005 ? rate(stand.now - stand.rate) : '–'}</td>
              <td className="r">{stand.waits >= 1 ? l.times(short(stand.waits)) : '–'}</td>
              <td className="r wide">{stand.backlog >= 1 ? bytes(stand.backlog) : '–'}</td>
              <td className="r wide">{stand.dropped ? short(stand.dropped) : '–'}</td>
              <td className="r wide">{count(stand.workloads)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
