import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, body, reasonHeader } from '../../api/client';
import { Field } from '../../parts/Field';
import { useRole, useTenant } from '../../parts/hooks';
import { Dialog } from '../../parts/overlays';
import { ProblemNote, ReadOnly } from '../../parts/parts';
import { useKept } from '../../parts/useKept';
import { useTexts } from '../../text/language';
import { ScopeFields } from '../alerts/ScopeFields';
import { ConflictDialog } from '../policy/ConflictDialog';
import { toYaml } from '../policy/yaml';
import { type Budget, type BudgetForm, type BudgetWish, formOf, NEW_BUDGET, SCOPES, wishIn, wishOf } from './model';
import type { Done } from './UndoNote';

interface ChangeHeader {
  'if-match'?: string;
  'if-none-match'?: string;
  'podlane-reason'?: string | undefined;
}

/** If it is still as it was then. */
const at = ({ version }: Budget): ChangeHeader => ({ 'if-match': `"${version}"` });
const textOf = (budget: BudgetWish) => toYaml(budget).trimEnd();

interface BudgetProps {
  found: Budget | undefined;
  close: () => void;
  /** Say what was done: it can be undone. */
  tell: (done: Done) => void;
}

/** A budget as a form: for who may, to be saved. */
export function BudgetDialog({ found, close, tell }: BudgetProps) {
  const t = useTexts();
  const b = t.budgets;
  const tenant = useTenant();
  const queries = useQueryClient();
  const { role, may } = useRole();
  const [name, setName] = useState(found?.name ?? '');
  const [form, setForm] = useState<BudgetForm>(found ? formOf(wishOf(found)) : NEW_BUDGET);
  const [reason, setReason] = useState('');
  const written = wishIn(form);
  const wrong = !written && form.size.trim() !== '';
  const path = { tenant, budget: name };
  const put = async (budget: BudgetWish, header: ChangeHeader) =>
    (await body(
      api.PUT('/v1/tenants/{tenant}/budgets/{budget}', { params: { path, header }, body: budget }),
    )) as Budget;
  const drop = (header: ChangeHeader) =>
    api.DELETE('/v1/tenants/{tenant}/budgets/{budget}', { params: { path, header } });
  const why = { 'podlane-reason': reasonHeader(reason) };
  const kept = useKept({
    of: 'budgets',
    found,
    write: (budget: BudgetWish, header) => put(budget, { ...header, ...why }),
    read: () => body(api.GET('/v1/tenants/{tenant}/budgets/{budget}', { params: { path } })),
    done: (saved: Budget, before) => {
      tell({
        says: before ? b.changed(name) : b.made(name),
        // Not if somebody has changed it meanwhile.
        undo: () => (before ? put(wishOf(before), at(saved)) : drop(at(saved))),
      });
      close();
    },
  });
  const { seen } = kept;
  const remove = useMutation({
    mutationFn: (gone: Budget) => drop({ ...at(gone), ...why }),
    onSuccess: async (_, gone) => {
      tell({ says: b.removed(name), undo: () => put(wishOf(gone), { 'if-none-match': '*' }) });
      await queries.invalidateQueries({ queryKey: ['t', tenant, 'budgets'] });
      close();
    },
  });
  return (
    <Dialog title={found ? b.title(found.name) : b.make} close={close} size={560}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          if (written) kept.save.mutate(written);
        }}
      >
        {!may('operator') && <ReadOnly role={role} needed="operator" />}
        <fieldset className="plain stack" disabled={!may('operator')}>
          {!found && (
            <Field id="budget-name" label={b.name} hint={t.alerts.rules.nameHint}>
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
          <div className="form-grid">
            <Field id="budget-size" label={b.size} hint={wrong ? b.sizeWrong : b.sizeHint} wrong={wrong}>
              {(aria) => (
                <input
                  {...aria}
                  className={`input num ${wrong ? 'wrong' : ''}`}
                  required
                  value={form.size}
                  onChange={(event) => setForm({ ...form, size: event.target.value })}
                />
              )}
            </Field>
            <Field id="budget-period" label={b.period} hint={b.periodHint}>
              {(aria) => (
                <select
                  {...aria}
                  className="select"
                  value={form.period}
                  onChange={(event) => setForm({ ...form, period: event.target.value as BudgetWish['period'] })}
                >
                  <option value="day">{b.periods.day}</option>
                  <option value="month">{b.periods.month}</option>
                </select>
              )}
            </Field>
            <ScopeFields asked={SCOPES} scope={form.scope} change={(scope) => setForm({ ...form, scope })} />
          </div>
        </fieldset>
        <p className="sub" style={{ margin: 0 }}>
          {b.means}
        </p>
        {may('operator') && (
          <Field id="budget-reason" label={t.alerts.rules.reason}>
            {(aria) => (
              <input {...aria} className="input" value={reason} onChange={(event) => setReason(event.target.value)} />
            )}
          </Field>
        )}
        {kept.save.isError && <ProblemNote error={kept.save.error} />}
        {remove.isError && <ProblemNote error={remove.error} />}
        {may('operator') && (
          <div style={{ display: 'flex', gap: 8, flexWrap: 'wrap' }}>
            <button type="submit" className="btn primary" disabled={wrong || kept.save.isPending}>
              {b.save}
            </button>
            {seen && (
              <button
                type="button"
                className="btn danger"
                disabled={remove.isPending}
                onClick={() => remove.mutate(seen)}
              >
                {b.remove}
              </button>
            )}
          </div>
        )}
      </form>
      {kept.theirs && written && (
        <ConflictDialog
          subject={`budget/${name}`}
          theirs={textOf(wishOf(kept.theirs))}
          mine={textOf(written)}
          takeHint={t.alerts.rules.takeTheirs}
          keepHint={t.alerts.rules.keepMine}
          close={kept.forget}
          choose={(take) => {
            if (take && kept.theirs) setForm(formOf(wishOf(kept.theirs)));
            kept.goOn();
          }}
        />
      )}
    </Dialog>
  );
}
