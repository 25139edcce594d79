import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { useState } from 'react';
import { api, body, reasonHeader, type Schemas } from '../../api/client';
import { useTenant } from '../../parts/hooks';
import { Dialog } from '../../parts/overlays';
import { ProblemNote } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { Diff, textOf } from './Diff';
import { percentsOf, type RollOutForm, wishOf } from './rollOut';
import type { Written } from './useEditor';

interface RollOutProps {
  found: Schemas['PolicyDocument'];
  before: Written | null;
  after: Written;
  saveFirst: (() => Promise<Schemas['PolicyDocument']>) | undefined;
  close: () => void;
}

/** The last look at what changes, and by which steps it reaches everybody. */
export function RollOutDialog({ found, before, after, saveFirst, close }: RollOutProps) {
  const t = useTexts();
  const r = t.editor.rollOut;
  const tenant = useTenant();
  const navigate = useNavigate();
  const queries = useQueryClient();
  const [form, setForm] = useState<RollOutForm>({
    staged: true,
    stages: '1, 10, 50',
    soak: '60',
    failed: '0',
    away: '10',
    dropped: '',
    throttled: '',
  });
  const [reason, setReason] = useState('');
  const wrong = form.staged && percentsOf(form.stages) === undefined;
  const go = useMutation({
    mutationFn: async () => {
      // What was saved just now has another version than what this page has read.
      const saved = saveFirst ? await saveFirst() : found;
      return body(
        api.POST('/v1/tenants/{tenant}/policies/{policy}/publish', {
          params: {
            path: { tenant, policy: found.name },
            header: { 'if-match': `"${saved.version}"`, 'podlane-reason': reasonHeader(reason) },
          },
          body: { rollout: wishOf(form) },
        }),
      );
    },
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['t', tenant] });
      if (form.staged) await navigate({ to: '/t/$tenant/rollouts/$policy', params: { tenant, policy: found.name } });
      else close();
    },
  });
  const field = (key: keyof RollOutForm & string, label: string, hint?: string) => (
    <div className="field">
      <label htmlFor={`out-${key}`}>{label}</label>
      <input
        id={`out-${key}`}
        className="input num"
        inputMode="decimal"
        value={String(form[key])}
        placeholder={hint}
        onChange={(event) => setForm({ ...form, [key]: event.target.value })}
      />
    </div>
  );
  return (
    <Dialog title={r.title(found.name)} close={close} size={680}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          go.mutate();
        }}
      >
        <section className="panel" aria-label={t.editor.changes}>
          <div className="panel-head">
            <h2>{t.editor.changes}</h2>
            {saveFirst && <span className="sub right">{r.unsaved}</span>}
          </div>
          <Diff before={before ? textOf(before) : ''} after={textOf(after)} nothing={t.editor.noChanges} />
        </section>
        <div className="segments" role="group" aria-label={r.how} style={{ justifySelf: 'start' }}>
          <button type="button" aria-pressed={form.staged} onClick={() => setForm({ ...form, staged: true })}>
            {r.stages}
          </button>
          <button type="button" aria-pressed={!form.staged} onClick={() => setForm({ ...form, staged: false })}>
            {r.once}
          </button>
        </div>
        {form.staged && (
          <>
            <div className="form-grid">
              <div className="field">
                <label htmlFor="out-stages">{r.canary}</label>
                <input
                  id="out-stages"
                  className={`input num ${wrong ? 'wrong' : ''}`}
                  value={form.stages}
                  aria-invalid={wrong}
                  onChange={(event) => setForm({ ...form, stages: event.target.value })}
                />
                {wrong && (
                  <span className="sub" style={{ color: 'var(--bad)' }}>
                    {r.stagesWrong}
                  </span>
                )}
              </div>
              {field('soak', r.soak)}
            </div>
            <fieldset className="gates">
              <legend className="label">{r.gates}</legend>
              <div className="form-grid">
                {field('failed', r.failed)}
                {field('away', r.away)}
                {field('dropped', r.dropped, r.off)}
                {field('throttled', r.throttled, r.off)}
              </div>
            </fieldset>
          </>
        )}
        <div className="field">
          <label htmlFor="out-reason">{r.reason}</label>
          <input
            id="out-reason"
            data-autofocus
            className="input"
            value={reason}
            onChange={(event) => setReason(event.target.value)}
          />
        </div>
        {go.isError && <ProblemNote error={go.error} />}
        <div>
          <button type="submit" className="btn primary" disabled={wrong || go.isPending}>
            {form.staged ? r.go : r.goOnce}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
