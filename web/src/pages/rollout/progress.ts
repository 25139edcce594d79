/** Where a rollout is, in numbers that add up. Pure. */
import type { Schemas } from '../../api/client';

export interface Parts {
  agents: number;
  applied: number;
  failed: number;
  onItsWay: number;
  away: number;
  notAsked: number;
}

export function partsOf(rollout: Schemas['RolloutDocument']): Parts {
  const seen = rollout.progress;
  const agents = seen?.agents ?? 0;
  if (rollout.state === 'done' || rollout.state === 'superseded' || rollout.state === 'taken back' || !seen) {
    const applied = rollout.state === 'done' ? agents : 0;
    return { agents, applied, failed: 0, onItsWay: 0, away: 0, notAsked: agents - applied };
  }
  // One that has failed may have said so of a few workloads and have the revision all the same.
  const applied = Math.max(0, Math.min(seen.having, seen.reached - seen.failed - seen.away));
  return {
    agents,
    applied,
    failed: seen.failed,
    away: seen.away,
    onItsWay: Math.max(0, seen.reached - applied - seen.failed - seen.away),
    notAsked: Math.max(0, agents - seen.reached),
  };
}

export interface Reason {
  why: string;
  agents: string[];
}

/** Failures by their reason, the most frequent first: each is CLUSTER/NODE: WHY. */
export function reasonsOf(failures: string[]): Reason[] {
  const found = new Map<string, string[]>();
  for (const each of failures) {
    const [, agent = '', why = each] = /^(\S+): (.*)$/s.exec(each) ?? [];
    // A workload's name in front of it says where, not why.
    const bare = why.replace(/^\S+\/\S+: /, '');
    found.set(bare, [...(found.get(bare) ?? []), agent]);
  }
  return [...found].map(([why, agents]) => ({ why, agents })).sort((a, b) => b.agents.length - a.agents.length);
}
