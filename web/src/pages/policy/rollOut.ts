/** What the form of a rollout asks for. Pure. */
import type { Schemas } from '../../api/client';

export interface RollOutForm {
  staged: boolean;
  stages: string;
  soak: string;
  failed: string;
  away: string;
  dropped: string;
  throttled: string;
}

/** Per cent of all agents, one of each stage; undefined: it is something else. */
export function percentsOf(text: string): number[] | undefined {
  const values = text
    .split(/[\s,;%]+/)
    .filter(Boolean)
    .map(Number);
  return values.length > 0 && values.every((each) => each > 0 && each <= 100) ? values : undefined;
}

/** Null: all at once. What is no number is left to the server to refuse. */
export function wishOf(form: RollOutForm): Schemas['RolloutWish'] | null {
  if (!form.staged) return null;
  const factor = (text: string) => (text.trim() ? Number(text) : null);
  return {
    stages: (percentsOf(form.stages) ?? []).map((percent) => ({ percent })),
    soak: Number(form.soak),
    gates: {
      failed: Number(form.failed),
      away: Number(form.away) / 100,
      dropped: factor(form.dropped),
      throttled: factor(form.throttled),
      prometheus: [],
    },
    on_new_revision: 'supersede',
  };
}
