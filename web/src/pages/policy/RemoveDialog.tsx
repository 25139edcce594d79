import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, reasonHeader, type Schemas } from '../../api/client';
import { useTenant } from '../../parts/hooks';
import { Dialog } from '../../parts/overlays';
import { ProblemNote } from '../../parts/parts';
import { useTexts } from '../../text/language';

/** Takes a policy out of force: at once and everywhere, so that it is asked before. */
export function RemoveDialog({ found, close }: { found: Schemas['PolicyDocument']; close: () => void }) {
  const t = useTexts();
  const tenant = useTenant();
  const queries = useQueryClient();
  const [reason, setReason] = useState('');
  const remove = useMutation({
    mutationFn: () =>
      api.DELETE('/v1/tenants/{tenant}/policies/{policy}', {
        params: {
          path: { tenant, policy: found.name },
          header: { 'if-match': `"${found.version}"`, 'podlane-reason': reasonHeader(reason) },
        },
      }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['t', tenant] });
      close();
    },
  });
  return (
    <Dialog title={`${t.editor.removePolicy}: ${found.name}`} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          remove.mutate();
        }}
      >
        <div className="note warn">
          <p>{t.editor.removeAsk}</p>
        </div>
        <div className="field">
          <label htmlFor="remove-reason">{t.editor.rollOut.reason}</label>
          <input
            id="remove-reason"
            className="input"
            value={reason}
            onChange={(event) => setReason(event.target.value)}
          />
        </div>
        {remove.isError && <ProblemNote error={remove.error} />}
        <div>
          <button type="submit" className="btn danger" disabled={remove.isPending}>
            {t.editor.removePolicy}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
