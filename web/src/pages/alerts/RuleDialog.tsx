import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, body, reasonHeader } from '../../api/client';
import { alertChannels, alertRule } from '../../api/queries';
import { Field } from '../../parts/Field';
import { useRole, useTenant } from '../../parts/hooks';
import { Dialog } from '../../parts/overlays';
import { ProblemNote, ReadOnly } from '../../parts/parts';
import { useKept } from '../../parts/useKept';
import { useTexts } from '../../text/language';
import { ConflictDialog } from '../policy/ConflictDialog';
import { toYaml } from '../policy/yaml';
import {
  type AlertKind,
  formOf,
  KINDS,
  measureOf,
  NEW_RULE,
  ofTraffic,
  type Rule,
  type RuleForm,
  type RuleWish,
  ruleOf,
  SEVERITIES,
  type Severity,
  scopesOf,
  tellValue,
  USUAL,
  wishOf,
} from './model';
import { About } from './pills';
import { ScopeFields } from './ScopeFields';
import { Trial } from './Trial';

const textOf = (rule: RuleWish) => toYaml(rule).trimEnd();

/** A rule as a form, with what would have come of it: for who may, to be saved. */
export function RuleDialog({ found, close }: { found: Rule | undefined; close: () => void }) {
  const t = useTexts();
  const r = t.alerts.rules;
  const tenant = useTenant();
  const queries = useQueryClient();
  const { role, may } = useRole();
  const [name, setName] = useState(found?.name ?? '');
  const [form, setForm] = useState<RuleForm>(found ? formOf(ruleOf(found)) : NEW_RULE);
  const [reason, setReason] = useState('');
  const written = wishOf(form);
  const wrong = 'wrong' in written ? written.wrong : [];
  const kept = useKept({
    of: 'alerts',
    found,
    write: (rule: RuleWish, header) =>
      body(
        api.PUT('/v1/tenants/{tenant}/alerts/rules/{rule}', {
          params: { path: { tenant, rule: name }, header: { ...header, 'podlane-reason': reasonHeader(reason) } },
          body: rule,
        }),
      ),
    read: () => queries.fetchQuery({ ...alertRule(tenant, name), staleTime: 0 }),
    done: close,
  });
  const put = (part: Partial<RuleForm>) => setForm({ ...form, ...part });
  const kindOf = (kind: AlertKind) => {
    // What was a usual threshold of the other kind means nothing for this one.
    const usual = form.threshold === USUAL[form.kind];
    put({ kind, threshold: usual ? USUAL[kind] : form.threshold });
  };
  const line = (key: 'threshold' | 'over' | 'hold', label: string, hint: string) => (
    <Field id={`rule-${key}`} label={label} hint={wrong.includes(key) ? r.wrong : hint} wrong={wrong.includes(key)}>
      {(aria) => (
        <input
          {...aria}
          className={`input num ${aria['aria-invalid'] ? 'wrong' : ''}`}
          value={form[key]}
          onChange={(event) => put({ [key]: event.target.value })}
        />
      )}
    </Field>
  );
  const texts = (key: 'labels' | 'annotations', label: string) => (
    <Field
      id={`rule-${key}`}
      label={label}
      hint={wrong.includes(key) ? r.pairsWrong : r.pairsHint}
      wrong={wrong.includes(key)}
    >
      {(aria) => (
        <textarea
          {...aria}
          className={`input mono ${aria['aria-invalid'] ? 'wrong' : ''}`}
          rows={2}
          value={form[key]}
          onChange={(event) => put({ [key]: event.target.value })}
        />
      )}
    </Field>
  );
  return (
    <Dialog title={found ? `${t.alerts.rule}: ${found.name}` : r.make} close={close} size={720}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          if ('wish' in written) kept.save.mutate(written.wish);
        }}
      >
        {!may('operator') && <ReadOnly role={role} needed="operator" />}
        <fieldset className="plain stack" disabled={!may('editor')}>
          <div className="form-grid">
            {!found && (
              <Field id="rule-name" label={r.name} hint={r.nameHint}>
                {(aria) => (
                  <input
                    {...aria}
                    data-autofocus
                    className="input"
                    required
                    value={name}
                    onChange={(event) => setName(event.target.value)}
                  />
                )}
              </Field>
            )}
            <Field id="rule-severity" label={t.alerts.severity}>
              {(aria) => (
                <select
                  {...aria}
                  className="select"
                  value={form.severity}
                  onChange={(event) => put({ severity: event.target.value as Severity })}
                >
                  {SEVERITIES.map((each) => (
                    <option key={each} value={each}>
                      {t.alerts.severities[each]}
                    </option>
                  ))}
                </select>
              )}
            </Field>
          </div>
          <Field id="rule-kind" label={r.kind} hint={t.alerts.kindMeans[form.kind] ?? ''}>
            {(aria) => (
              <select
                {...aria}
                className="select"
                value={form.kind}
                onChange={(event) => kindOf(event.target.value as AlertKind)}
              >
                {KINDS.map((each) => (
                  <option key={each} value={each}>
                    {t.alerts.kinds[each]}
                  </option>
                ))}
              </select>
            )}
          </Field>
          <div className="form-grid">
            {line('threshold', r.threshold, r.thresholdHint[measureOf(form.kind)])}
            {line('hold', r.hold, r.holdHint)}
            {ofTraffic(form.kind) && line('over', r.over, r.overHint)}
            <ScopeFields asked={scopesOf(form.kind)} scope={form.scope} change={(scope) => put({ scope })} />
          </div>
          <Channels chosen={form.channels} change={(channels) => put({ channels })} />
          <div className="form-grid">
            {texts('labels', r.labels)}
            {texts('annotations', r.annotations)}
          </div>
        </fieldset>
        {'wish' in written && <Trial wish={written.wish} />}
        {found && <Values rule={found} />}
        {may('operator') && (
          <Field id="rule-reason" label={r.reason}>
            {(aria) => (
              <input {...aria} className="input" value={reason} onChange={(event) => setReason(event.target.value)} />
            )}
          </Field>
        )}
        {kept.save.isError && <ProblemNote error={kept.save.error} />}
        {may('operator') && (
          <div style={{ display: 'flex', gap: 8, flexWrap: 'wrap' }}>
            <button type="submit" className="btn primary" disabled={wrong.length > 0 || kept.save.isPending}>
              {r.save}
            </button>
            {found && <Remove found={found} reason={reason} close={close} />}
          </div>
        )}
      </form>
      {kept.theirs && 'wish' in written && (
        <ConflictDialog
          subject={`alert-rule/${name}`}
          theirs={textOf(ruleOf(kept.theirs))}
          mine={textOf(written.wish)}
          takeHint={r.takeTheirs}
          keepHint={r.keepMine}
          close={kept.forget}
          choose={(take) => {
            if (take && kept.theirs) setForm(formOf(ruleOf(kept.theirs)));
            kept.goOn();
          }}
        />
      )}
    </Dialog>
  );
}

/** Who is told: all, if nobody is chosen. A channel that is named and is none any more can be taken out. */
function Channels({ chosen, change }: { chosen: string[]; change: (chosen: string[]) => void }) {
  const r = useTexts().alerts.rules;
  const { data } = useQuery(alertChannels(useTenant()));
  if (!data) return null;
  const names = [...new Set([...data.items.map((each) => each.name), ...chosen])];
  return (
    <fieldset className="gates">
      <legend className="label">{r.channels}</legend>
      <div style={{ display: 'flex', gap: 12, flexWrap: 'wrap' }}>
        {names.map((each) => (
          <label key={each} style={{ display: 'inline-flex', gap: 6, alignItems: 'center' }}>
            <input
              type="checkbox"
              checked={chosen.includes(each)}
              onChange={(event) =>
                change(event.target.checked ? [...chosen, each] : chosen.filter((other) => other !== each))
              }
            />
            {each}
          </label>
        ))}
      </div>
      <span className="sub">{names.length > 0 ? r.channelsAll : r.channelsNone}</span>
    </fieldset>
  );
}

const SHOWN = 8;

function Values({ rule }: { rule: Rule }) {
  const t = useTexts();
  const r = t.alerts.rules;
  return (
    <section className="panel" aria-label={r.seen}>
      <div className="panel-head">
        <h2>{r.seen}</h2>
      </div>
      {rule.values.length === 0 && <p className="sub diff-none">{rule.state === null ? r.notLooked : r.nothingSeen}</p>}
      {rule.values.slice(0, SHOWN).map((each) => (
        <div className="gate" key={JSON.stringify(each.labels)}>
          <div className="gate-line">
            <span className="grow">
              <About labels={each.labels} />
            </span>
            <b className="num">{tellValue(rule.kind, each.value)}</b>
            <span className={`pill ${each.state === 'firing' ? 'bad' : each.state === 'pending' ? 'warn' : 'ok'}`}>
              {t.alerts.states[each.state ?? 'inactive']}
            </span>
          </div>
        </div>
      ))}
    </section>
  );
}

/** Asks first: what fires by the rule is over then. */
function Remove({ found, reason, close }: { found: Rule; reason: string; close: () => void }) {
  const t = useTexts();
  const r = t.alerts.rules;
  const tenant = useTenant();
  const queries = useQueryClient();
  const [asking, setAsking] = useState(false);
  const remove = useMutation({
    mutationFn: () =>
      api.DELETE('/v1/tenants/{tenant}/alerts/rules/{rule}', {
        params: {
          path: { tenant, rule: found.name },
          header: { 'if-match': `"${found.version}"`, 'podlane-reason': reasonHeader(reason) },
        },
      }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['t', tenant, 'alerts'] });
      close();
    },
  });
  if (!asking) {
    return (
      <button type="button" className="btn danger" onClick={() => setAsking(true)}>
        {r.remove} …
      </button>
    );
  }
  return (
    <div className="stack" style={{ flexBasis: '100%' }}>
      <div className="note warn">
        <p>{r.removeAsk(found.name)}</p>
      </div>
      {remove.isError && <ProblemNote error={remove.error} />}
      <div style={{ display: 'flex', gap: 8 }}>
        <button type="button" className="btn danger" disabled={remove.isPending} onClick={() => remove.mutate()}>
          {r.remove}
        </button>
        <button type="button" className="btn" onClick={() => setAsking(false)}>
          {t.cancel}
        </button>
      </div>
    </div>
  );
}
