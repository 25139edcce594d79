/** What people write about alerts, and what the control plane is sent. Pure. */
import type { Schemas } from '../../api/client';
import { short } from '../../parts/format';

export type AlertKind = Schemas['AlertKind'];
export type Severity = Schemas['AlertSeverity'];
export type Rule = Schemas['AlertRuleDocument'];
export type RuleWish = Schemas['AlertRuleWish'];
export type Matcher = Schemas['MatcherWish'];
export type Channel = Schemas['ChannelDocument'];
export type ChannelWish = Required<Schemas['ChannelWish']>;

export const SEVERITIES: Severity[] = ['critical', 'warning', 'info'];
export const KINDS: AlertKind[] = [
  'throttled',
  'dropped',
  'below-guarantee',
  'budget',
  'volume-budget',
  'agents-away',
  'rollout-stuck',
  'certificate-expiry',
];
export const SCOPES = ['cluster', 'policy', 'class', 'direction'] as const;
export type Scope = (typeof SCOPES)[number] | 'budget';

const TIMES: AlertKind[] = ['rollout-stuck', 'certificate-expiry'];
const OF_TRAFFIC: AlertKind[] = ['throttled', 'dropped', 'below-guarantee', 'budget'];

/** Whether a kind looks at figures of lanes, over some time. */
export const ofTraffic = (kind: AlertKind) => OF_TRAFFIC.includes(kind);

/** What a rule of a kind can be narrowed to. */
export function scopesOf(kind: AlertKind): readonly Scope[] {
  if (ofTraffic(kind)) return SCOPES;
  if (kind === 'volume-budget') return ['budget'];
  return kind === 'rollout-stuck' ? ['policy'] : ['cluster'];
}

/** What a threshold of a kind is. */
export const measureOf = (kind: AlertKind) =>
  TIMES.includes(kind) ? 'time' : kind === 'below-guarantee' ? 'number' : 'share';

const UNITS = { s: 1, m: 60, h: 3600, d: 86_400 } as const;

/** Seconds of a text as 30s, 2m, 1h30m; a number alone is seconds. Undefined: it is none. */
export function secondsOf(text: string): number | undefined {
  const found = text.replace(/\s/g, '');
  if (/^\d+$/.test(found)) return Number(found);
  if (!/^(\d+(\.\d+)?[smhd])+$/.test(found)) return undefined;
  let sum = 0;
  for (const [, number, unit] of found.matchAll(/([\d.]+)([smhd])/g)) {
    sum += Number(number) * UNITS[unit as keyof typeof UNITS];
  }
  return Math.round(sum);
}

/** The shortest text of seconds that loses nothing: 90s, 2m, 6h. */
export function secondsText(seconds: number): string {
  if (seconds === 0) return '0s';
  for (const unit of ['d', 'h', 'm'] as const) {
    if (seconds % UNITS[unit] === 0) return `${seconds / UNITS[unit]}${unit}`;
  }
  return `${seconds}s`;
}

/** A threshold as its kind has it: 20% or 0.2, a number, or a time. Undefined: it is none. */
export function thresholdOf(kind: AlertKind, text: string): number | undefined {
  const found = text.trim();
  if (TIMES.includes(kind)) return secondsOf(found);
  const [, number, percent] = /^(\d+(?:\.\d+)?)\s*(%?)$/.exec(found) ?? [];
  if (number === undefined) return undefined;
  if (!percent) return Number(number);
  // Without what binary fractions add: 7% is 0.07, and no more.
  return kind === 'below-guarantee' ? undefined : Number((Number(number) / 100).toPrecision(12));
}

export function thresholdText(kind: AlertKind, value: number): string {
  if (TIMES.includes(kind)) return secondsText(value);
  if (kind === 'below-guarantee') return String(value);
  return `${Number((value * 100).toPrecision(12))}%`;
}

/** A value as people read it. */
export function tellValue(kind: AlertKind, value: number): string {
  if (TIMES.includes(kind)) {
    const size = Math.abs(value);
    return size < 120
      ? `${Math.round(value)} s`
      : size < 7200
        ? `${Math.round(value / 60)} min`
        : `${Math.round(value / 3600)} h`;
  }
  return kind === 'below-guarantee' ? short(value) : `${short(value * 100)} %`;
}

/** Texts by their names, a line for each: NAME: TEXT, where \n is a new line. Undefined: a line is none. */
export function pairsOf(text: string): Record<string, string> | undefined {
  const pairs: Record<string, string> = {};
  for (const line of text.split('\n')) {
    if (!line.trim()) continue;
    const [, name, value] = /^\s*([^\s:]+)\s*:\s*(.*?)\s*$/.exec(line) ?? [];
    if (name === undefined || value === undefined) return undefined;
    pairs[name] = value.replace(/\\([n\\])/g, (_, letter) => (letter === 'n' ? '\n' : '\\'));
  }
  return pairs;
}

export function pairsText(pairs: Record<string, string>): string {
  return Object.entries(pairs)
    .map(([name, value]) => `${name}: ${value.replace(/\\/g, '\\\\').replace(/\n/g, '\\n')}`)
    .join('\n');
}

/** A matcher for each line: NAME=VALUE, or NAME!=VALUE. Undefined: a line is none, or there is none. */
export function matchersOf(text: string): Matcher[] | undefined {
  const made: Matcher[] = [];
  for (const line of text.split('\n')) {
    if (!line.trim()) continue;
    const [, name, sign, value] = /^\s*([A-Za-z_][A-Za-z0-9_]*)\s*(!?=)\s*(.*?)\s*$/.exec(line) ?? [];
    if (name === undefined || value === undefined) return undefined;
    made.push({ name, value, differs: sign === '!=' });
  }
  return made.length > 0 ? made : undefined;
}

export const matcherText = (matcher: Matcher) => `${matcher.name}${matcher.differs ? '!=' : '='}${matcher.value}`;

/** What says which alert it is, of its own labels: those of its rule may have its value in them. */
const NAMING = ['alertname', 'cluster', 'policy', 'class', 'direction', 'budget'];

/** Matchers of this alert, and of this one alone. */
export function matchersFor(labels: Record<string, string>): Matcher[] {
  return NAMING.flatMap((name) => {
    const value = labels[name];
    return value ? [{ name, value, differs: false }] : [];
  });
}

/** Labels that say what an alert is about, in an order in which people look for them. */
export function aboutOf(labels: Record<string, string>): [string, string][] {
  const known = ['cluster', 'policy', 'class', 'direction'];
  const hidden = ['alertname', 'tenant', 'kind', 'severity'];
  const rest = Object.keys(labels).filter((name) => !known.includes(name) && !hidden.includes(name));
  return [...known, ...rest.sort()].flatMap((name) => {
    const value = labels[name];
    return value ? [[name, value] as [string, string]] : [];
  });
}

/** A rule as a form has it: everything is a text. */
export interface RuleForm {
  kind: AlertKind;
  threshold: string;
  over: string;
  hold: string;
  severity: Severity;
  scope: Partial<Record<Scope, string>>;
  labels: string;
  annotations: string;
  channels: string[];
}

export const NEW_RULE: RuleForm = {
  kind: 'agents-away',
  threshold: '5%',
  over: '1m',
  hold: '2m',
  severity: 'warning',
  scope: {},
  labels: '',
  annotations: '',
  channels: [],
};

/** What a threshold of a kind might be, for a form that has another kind now. */
export const USUAL: Record<AlertKind, string> = {
  throttled: '20%',
  dropped: '1%',
  'below-guarantee': '0',
  budget: '90%',
  'volume-budget': '80%',
  'agents-away': '5%',
  'rollout-stuck': '30m',
  'certificate-expiry': '7d',
};

export function formOf(rule: RuleWish): RuleForm {
  return {
    kind: rule.kind,
    threshold: thresholdText(rule.kind, rule.threshold),
    over: secondsText(rule.over),
    hold: secondsText(rule.for),
    severity: rule.severity,
    scope: rule.scope ?? {},
    labels: pairsText(rule.labels ?? {}),
    annotations: pairsText(rule.annotations ?? {}),
    channels: rule.channels ?? [],
  };
}

/** What a form says, or which of its fields cannot be read. */
export function wishOf(form: RuleForm): { wish: RuleWish } | { wrong: (keyof RuleForm)[] } {
  const threshold = thresholdOf(form.kind, form.threshold);
  const over = secondsOf(form.over);
  const hold = secondsOf(form.hold);
  const labels = pairsOf(form.labels);
  const annotations = pairsOf(form.annotations);
  if (threshold === undefined || over === undefined || hold === undefined || !labels || !annotations) {
    const wrong: (keyof RuleForm)[] = [];
    if (threshold === undefined) wrong.push('threshold');
    if (over === undefined) wrong.push('over');
    if (hold === undefined) wrong.push('hold');
    if (!labels) wrong.push('labels');
    if (!annotations) wrong.push('annotations');
    return { wrong };
  }
  const scope: Record<string, string> = {};
  for (const name of scopesOf(form.kind)) {
    const value = form.scope[name]?.trim();
    if (value) scope[name] = value;
  }
  const { kind, severity, channels } = form;
  return { wish: { kind, threshold, scope, over, for: hold, severity, labels, annotations, channels } };
}

/** What was written of a rule, of all that is known of it. */
export function ruleOf(rule: Rule): RuleWish {
  const { kind, threshold, scope, over, severity, labels, annotations, channels } = rule;
  return { kind, threshold, scope, over, for: rule.for, severity, labels, annotations, channels };
}

export function channelOf(channel: Channel): ChannelWish {
  const { kind, url, server, sender, user, security, ca } = channel;
  return { kind, url, server, sender, to: channel.to ?? [], user, security, ca };
}

export const NEW_CHANNEL: ChannelWish = {
  kind: 'webhook',
  url: '',
  server: '',
  sender: '',
  to: [],
  user: '',
  security: 'starttls',
  ca: '',
};

/** Without what other kinds have: a form keeps it, in case that one goes back. */
export function trimmed(channel: ChannelWish): ChannelWish {
  return channel.kind === 'email'
    ? { ...channel, url: '' }
    : { ...channel, server: '', sender: '', to: [], user: '', security: 'starttls' };
}

/** Where a channel leads to. */
export const placeOf = (channel: Schemas['ChannelWish']) =>
  channel.kind === 'email' ? `${(channel.to ?? []).join(', ')} (${channel.server})` : channel.url;

interface Firing {
  rule: string;
  severity: string;
  annotations: Record<string, string>;
  silenced_by: string[];
}

export interface RuleFiring {
  rule: string;
  severity: Severity;
  count: number;
  /** What the first of its alerts says. */
  summary: string;
}

/** What fires and is not silenced, by rule: the worst first. */
export function byRule(alerts: Firing[]): RuleFiring[] {
  const found = new Map<string, RuleFiring>();
  for (const { rule, severity, annotations, silenced_by } of alerts) {
    if (silenced_by.length > 0) continue;
    const before = found.get(rule);
    if (before) before.count += 1;
    else found.set(rule, { rule, severity: severity as Severity, count: 1, summary: annotations.summary ?? '' });
  }
  return [...found.values()].sort(
    (a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) || a.rule.localeCompare(b.rule),
  );
}
