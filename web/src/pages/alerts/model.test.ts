import { expect, it } from 'vitest';
import {
  aboutOf,
  byRule,
  formOf,
  KINDS,
  matchersFor,
  matchersOf,
  matcherText,
  NEW_RULE,
  pairsOf,
  pairsText,
  type RuleWish,
  scopesOf,
  secondsOf,
  secondsText,
  tellValue,
  thresholdOf,
  thresholdText,
  trimmed,
  USUAL,
  wishOf,
} from './model';

const RULE: RuleWish = {
  kind: 'throttled',
  threshold: 0.07,
  scope: { policy: 'web', direction: 'egress' },
  over: 90,
  for: 30,
  severity: 'critical',
  labels: { team: 'shop' },
  annotations: { summary: '{{ class }} waits: {{ value }}', runbook: 'https://wiki.example.com/slow' },
  channels: ['ops'],
};

it('has what it is sent again, whatever a form makes of it', () => {
  expect(wishOf(formOf(RULE))).toEqual({ wish: RULE });
  for (const kind of KINDS) {
    const threshold = thresholdOf(kind, USUAL[kind]);
    const rule: RuleWish = { ...RULE, kind, threshold: threshold as number, scope: {}, over: 3661, for: 86_400 };
    expect(wishOf(formOf(rule)), kind).toEqual({ wish: rule });
  }
});

it('says which fields cannot be read, all at once', () => {
  const form = { ...NEW_RULE, threshold: 'much', hold: '2 weeks', labels: 'team' };
  expect(wishOf(form)).toEqual({ wrong: ['threshold', 'hold', 'labels'] });
});

it('leaves out of the scope what a kind cannot be narrowed to, and what is empty', () => {
  const form = { ...NEW_RULE, scope: { cluster: ' fra1 ', policy: 'web', direction: '' } };
  expect(wishOf(form)).toMatchObject({ wish: { kind: 'agents-away', scope: { cluster: 'fra1' } } });
  expect(wishOf({ ...form, kind: 'rollout-stuck', threshold: '1h' })).toMatchObject({
    wish: { scope: { policy: 'web' }, threshold: 3600 },
  });
  expect(scopesOf('budget')).toEqual(['cluster', 'policy', 'class', 'direction']);
});

it('reads times and writes them', () => {
  expect(['90', '90s', '1m30s', '1.5m', '2h', '7d', '0'].map(secondsOf)).toEqual([90, 90, 90, 90, 7200, 604_800, 0]);
  expect(['', 'm', '1w', '-5s', '1m 3x'].map(secondsOf)).toEqual(Array(5).fill(undefined));
  expect([0, 90, 120, 3661, 7200, 604_800].map(secondsText)).toEqual(['0s', '90s', '2m', '3661s', '2h', '7d']);
});

it('has thresholds as their kinds have them', () => {
  expect(thresholdOf('throttled', '7%')).toBe(0.07);
  expect(thresholdOf('throttled', '0.2')).toBe(0.2);
  expect(thresholdOf('below-guarantee', '3')).toBe(3);
  expect(thresholdOf('below-guarantee', '3%')).toBeUndefined();
  expect(thresholdOf('certificate-expiry', '6h')).toBe(21_600);
  expect(thresholdOf('certificate-expiry', '6%')).toBeUndefined();
  expect(thresholdOf('dropped', '-1')).toBeUndefined();
  expect([thresholdText('budget', 0.07), thresholdText('below-guarantee', 3)]).toEqual(['7%', '3']);
  expect(['throttled', 'below-guarantee', 'rollout-stuck'].map((kind) => tellValue(kind as 'dropped', 0.256))).toEqual([
    '25.6 %',
    '0.26',
    '0 s',
  ]);
});

it('reads texts by line', () => {
  const text = 'summary: {{ class }} waits: {{ value }}\n\n  runbook:https://wiki.example.com';
  expect(pairsOf(text)).toEqual({ summary: '{{ class }} waits: {{ value }}', runbook: 'https://wiki.example.com' });
  expect(pairsOf(pairsText(pairsOf(text) ?? {}))).toEqual(pairsOf(text));
  expect(pairsOf('no colon')).toBeUndefined();
  const lines = { description: 'one: 1\ntwo \\n', path: 'C:\\new' };
  expect(pairsText(lines).split('\n')).toHaveLength(2);
  expect(pairsOf(pairsText(lines))).toEqual(lines);
});

it('silences an alert, and no other one', () => {
  const labels = {
    alertname: 'slow',
    tenant: 'default',
    policy: 'web',
    class: 'api',
    severity: 'warning',
    seen: '31%',
  };
  const matchers = matchersFor(labels);
  expect(matchers.map(matcherText)).toEqual(['alertname=slow', 'policy=web', 'class=api']);
  expect(matchersOf(matchers.map(matcherText).join('\n'))).toEqual(matchers);
  expect(matchersOf('severity != critical\nteam=')).toEqual([
    { name: 'severity', value: 'critical', differs: true },
    { name: 'team', value: '', differs: false },
  ]);
  expect([matchersOf(''), matchersOf('policy')]).toEqual([undefined, undefined]);
  expect(aboutOf(labels)).toEqual([
    ['policy', 'web'],
    ['class', 'api'],
    ['seen', '31%'],
  ]);
});

it('sends of a channel only what its kind has', () => {
  const both = {
    ...{ user: 'ops', security: 'tls' as const, ca: '' },
    url: 'https://a',
    server: 'b:25',
    sender: 'c@d',
  };
  expect(trimmed({ ...both, kind: 'webhook', to: ['e@f'] })).toMatchObject({ url: 'https://a', server: '', to: [] });
  expect(trimmed({ ...both, kind: 'email', to: ['e@f'] })).toMatchObject({ url: '', server: 'b:25', security: 'tls' });
});

it('tells what fires by rule, the worst first, without what is silenced', () => {
  const alert = (rule: string, severity: string, summary: string, silenced_by: string[] = []) => ({
    rule,
    severity,
    annotations: { summary },
    silenced_by,
  });
  const alerts = [
    alert('slow', 'warning', 'one'),
    alert('away', 'critical', 'two'),
    alert('slow', 'warning', 'three'),
    alert('quiet', 'critical', 'four', ['5d2c']),
  ];
  expect(byRule(alerts)).toEqual([
    { rule: 'away', severity: 'critical', count: 1, summary: 'two' },
    { rule: 'slow', severity: 'warning', count: 2, summary: 'one' },
  ]);
});
