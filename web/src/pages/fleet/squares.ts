import type { AgentState } from '../../api/queries';

const MOST = 160;
const SIZES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/** How many agents a square stands for, so that no cluster has more than 160 squares. */
export function agentsOfSquare(clusters: number[]): number {
  const largest = Math.max(0, ...clusters);
  return SIZES.find((size) => largest / size <= MOST) ?? Math.ceil(largest / MOST);
}

export interface Square {
  most: AgentState;
  failed: boolean;
}

/** The squares of a cluster: by how many of it are in which state. Failures are spread over what was reached. */
export function squares(states: { [state in AgentState]?: number }, size: number): Square[] {
  const fine = states['in-sync'] ?? 0;
  const behind = states.behind ?? 0;
  const failed = states.failed ?? 0;
  const away = states.away ?? 0;
  const all = fine + behind + failed + away;
  const total = Math.ceil(all / size);
  if (size === 1) {
    return [...fill('in-sync', fine), ...fill('behind', behind), ...fill('failed', failed), ...fill('away', away)];
  }
  // Squares whose most agents failed, beyond those that have a corner only.
  const full = Math.floor(failed / size / 2);
  const corners = failed ? Math.max(1, Math.min(total - full, Math.ceil(failed / size) * 2 - full)) : 0;
  const made: Square[] = [];
  for (let at = 0; at < total - full; at += 1) {
    const agents = at * size + 1;
    made.push({
      most:
        agents <= fine + (failed - full * size) ? 'in-sync' : agents <= all - full * size - away ? 'behind' : 'away',
      failed: false,
    });
  }
  for (let corner = 0; corner < corners; corner += 1) {
    const square = made[Math.floor(((corner + 0.5) * made.length) / corners)];
    if (square) square.failed = true;
  }
  return [...made, ...fill('failed', full)];
}

function fill(most: AgentState, times: number): Square[] {
  return Array.from({ length: times }, () => ({ most, failed: false }));
}
