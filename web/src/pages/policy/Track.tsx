import { type KeyboardEvent, type PointerEvent, useRef, useState } from 'react';
import { rate } from '../../parts/format';
import { useTexts } from '../../text/language';
import { laneColor } from './Bars';
import { bar, type Lane, parseRate, stepOf } from './model';

type Key = 'rate' | 'ceil';

interface TrackProps {
  lane: Lane;
  at: number;
  total: number;
  busy: number | undefined;
  wrong: boolean;
  /** A handle is at so many bit/s; undefined: nothing can be drawn. */
  draw: ((key: Key, bits: number, joined: boolean) => void) | undefined;
}

/** A lane against the total: its guarantee and its ceiling have a handle each, for the mouse and the arrow keys. */
export function Track({ lane, at, total, busy, wrong, draw }: TrackProps) {
  const t = useTexts();
  const track = useRef<HTMLDivElement>(null);
  const [taken, setTaken] = useState<{ key: Key; moved: boolean } | undefined>();
  const { rate: guaranteed, ceil } = bar(lane, total);
  const color = laneColor(at);
  const percent = (share: number) => `${share * 100}%`;
  const bits = {
    rate: parseRate(lane.rate) ?? 0,
    ceil: Math.max(parseRate(lane.ceil) ?? total, 0),
  };
  const look = { borderColor: wrong ? 'var(--bad)' : color };
  const says = t.editor.barSays(
    lane.name ?? '',
    rate(bits.rate),
    rate(bits.ceil),
    busy === undefined ? '' : rate(busy),
  );

  const moved = (event: PointerEvent) => {
    const box = track.current?.getBoundingClientRect();
    if (!taken || !box?.width || !draw) return;
    draw(taken.key, ((event.clientX - box.left) / box.width) * total, taken.moved);
    if (!taken.moved) setTaken({ ...taken, moved: true });
  };
  const pressed = (key: Key) => (event: KeyboardEvent) => {
    const step = stepOf(total);
    const ways: Record<string, number> = {
      ArrowRight: bits[key] + step,
      ArrowUp: bits[key] + step,
      ArrowLeft: bits[key] - step,
      ArrowDown: bits[key] - step,
      PageUp: bits[key] + 10 * step,
      PageDown: bits[key] - 10 * step,
      Home: 0,
      End: total,
    };
    const to = ways[event.key];
    if (to === undefined || !draw || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    draw(key, to, false);
  };
  const handle = (key: Key, share: number) =>
    draw && total > 0 ? (
      <div
        className={`handle ${key}-handle ${taken?.key === key ? 'taken' : ''}`}
        style={{ ...look, left: percent(share) }}
        role="slider"
        tabIndex={0}
        aria-label={t.editor.drawn(t.editor[key], lane.name ?? '')}
        aria-valuemin={0}
        aria-valuemax={total}
        aria-valuenow={Math.min(bits[key], total)}
        aria-valuetext={rate(bits[key])}
        onKeyDown={pressed(key)}
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          setTaken({ key, moved: false });
        }}
        onPointerMove={moved}
        onPointerUp={() => setTaken(undefined)}
        onPointerCancel={() => setTaken(undefined)}
      />
    ) : (
      <div className="handle" style={{ ...look, left: percent(share) }} />
    );
  return (
    <div ref={track} className={`track ${draw ? 'drawn' : ''}`}>
      <div className="ground" role="img" aria-label={says} />
      <div className="ceil" style={{ width: percent(Math.max(ceil, guaranteed)), background: color }} />
      <div className="rate" style={{ width: percent(guaranteed), background: color }} />
      {busy !== undefined && total > 0 && <div className="busy" style={{ left: percent(Math.min(1, busy / total)) }} />}
      {taken && (
        <output className="drawn-value num" style={{ left: percent(taken.key === 'rate' ? guaranteed : ceil) }}>
          {rate(bits[taken.key])}
        </output>
      )}
      {handle('rate', guaranteed)}
      {handle('ceil', ceil)}
    </div>
  );
}
