import { defaultRate, lanesOf, type PolicyDoc, parseRate } from './model';

export function laneColor(at: number): string {
  return at < 0 ? 'var(--lane-other)' : `var(--lane-${at % 8})`;
}

/** All guarantees in one bar: what is left is lent. */
export function Bars({ doc, tall }: { doc: PolicyDoc; tall?: boolean }) {
  const total = parseRate(doc.total) ?? 0;
  const lanes = lanesOf(doc);
  const rates = [...lanes.map((lane) => parseRate(lane.rate) ?? 0), defaultRate(doc)];
  // More than there is must still fit into the bar: the server says that it does not fit into the total.
  const whole =
    Math.max(
      total,
      rates.reduce((sum, each) => sum + each, 0),
    ) || 1;
  return (
    <div className={tall ? 'link-bar tall' : 'link-bar'} aria-hidden="true">
      {rates.map((rate, at) => {
        const lane = lanes[at];
        const share = rate / whole;
        return (
          <span
            key={at}
            className={share < 0.18 ? 'slim' : undefined}
            style={{ width: `${share * 100}%`, background: laneColor(lane ? at : -1) }}
          >
            {tall && lane && share > 0.09 ? `${lane.name ?? ''} ${shortRate(lane.rate)}` : ''}
          </span>
        );
      })}
    </div>
  );
}

function shortRate(value: unknown): string {
  return String(value ?? '').replace(/bit$/i, '');
}
