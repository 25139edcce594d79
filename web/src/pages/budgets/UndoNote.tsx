import { IconArrowBackUp } from '@tabler/icons-react';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useTenant } from '../../parts/hooks';
import { ProblemNote } from '../../parts/parts';
import { useTexts } from '../../text/language';

/** What was done, and what undoes it. */
export interface Done {
  says: string;
  undo: () => Promise<unknown>;
}

/** Says what was done, and can undo it, unless somebody has changed it meanwhile. */
export function UndoNote({ done, end }: { done: Done; end: () => void }) {
  const t = useTexts();
  const tenant = useTenant();
  const queries = useQueryClient();
  const undo = useMutation({
    mutationFn: done.undo,
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['t', tenant, 'budgets'] });
      end();
    },
  });
  return (
    <div className="stack" style={{ marginBottom: 12 }}>
      <div className="note good" role="status">
        <p className="grow">{done.says}</p>
        <button type="button" className="btn small" disabled={undo.isPending} onClick={() => undo.mutate()}>
          <IconArrowBackUp size={14} aria-hidden />
          {t.editor.undo}
        </button>
        <button type="button" className="btn small" onClick={end}>
          {t.close}
        </button>
      </div>
      {undo.isError && <ProblemNote error={undo.error} />}
    </div>
  );
}
