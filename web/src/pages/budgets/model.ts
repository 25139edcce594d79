/** Budgets of bytes as people write and read them. Pure. */
import type { Schemas } from '../../api/client';

export type Budget = Schemas['BudgetDocument'];
export type BudgetWish = Schemas['BudgetWish'];

const UNITS: [string, number][] = [
  ['TiB', 2 ** 40],
  ['GiB', 2 ** 30],
  ['MiB', 2 ** 20],
  ['KiB', 2 ** 10],
  ['TB', 1e12],
  ['GB', 1e9],
  ['MB', 1e6],
  ['kB', 1e3],
  ['B', 1],
];

/** Bytes of a text as 500GiB, 1.5 TB or 20gb. Undefined: it is none, or has no unit. */
export function bytesOf(text: string): number | undefined {
  const [, number, named] = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?b)$/i.exec(text.trim()) ?? [];
  const unit = UNITS.find(([name]) => name.toLowerCase() === named?.toLowerCase());
  return number !== undefined && unit ? Math.round(Number(number) * unit[1]) : undefined;
}

/** The shortest text of bytes that loses nothing: 500GiB, 20TB. */
export function bytesText(bytes: number): string {
  const whole = UNITS.filter(([, size]) => bytes % size === 0).map(([name, size]) => `${bytes / size}${name}`);
  return whole.reduce((a, b) => (b.length < a.length ? b : a));
}

export const SCOPES = ['policy', 'class', 'direction'] as const;

/** A budget as a form has it: everything is a text. */
export interface BudgetForm {
  size: string;
  period: BudgetWish['period'];
  scope: Partial<Record<(typeof SCOPES)[number], string>>;
}

export const NEW_BUDGET: BudgetForm = { size: '', period: 'month', scope: {} };

/** What was written of a budget, of all that is known of it. */
export function wishOf({ bytes, period, policy, class: lane, direction }: Budget): BudgetWish {
  return { bytes, period, policy, class: lane, direction: direction as BudgetWish['direction'] };
}

export function formOf({ bytes, period, policy, class: lane, direction }: BudgetWish): BudgetForm {
  return { size: bytesText(bytes), period, scope: { policy, class: lane, direction } };
}

/** What a form says. Undefined: its bytes cannot be read. */
export function wishIn({ size, period, scope }: BudgetForm): BudgetWish | undefined {
  const bytes = bytesOf(size);
  if (bytes === undefined) return undefined;
  const { policy = '', class: lane = '', direction = '' } = scope;
  return {
    bytes,
    period,
    policy: policy.trim(),
    class: lane.trim(),
    direction: direction as BudgetWish['direction'],
  };
}

/** Whether a budget is used up, will be before its period ends, or lasts. */
export function standOf({ used, bytes, used_up }: Budget): 'over' | 'short' | 'lasts' {
  if (used >= bytes) return 'over';
  return used_up === null ? 'lasts' : 'short';
}
