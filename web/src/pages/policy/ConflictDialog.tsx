import { useQuery } from '@tanstack/react-query';
import { eventsOf } from '../../api/queries';
import { duration } from '../../parts/format';
import { useNow, useTenant } from '../../parts/hooks';
import { Dialog } from '../../parts/overlays';
import { useTexts } from '../../text/language';
import { Diff } from './Diff';

interface ConflictProps {
  /** As the audit log has it: policy/shop. */
  subject: string;
  /** What they saved, as text. */
  theirs: string;
  mine: string;
  /** What becomes of the other one. */
  takeHint: string;
  keepHint: string;
  close: () => void;
  choose: (take: boolean) => void;
}

/** Two people have written: whose goes on is asked, and neither is lost by the answer. */
export function ConflictDialog({ subject, theirs, mine, takeHint, keepHint, close, choose }: ConflictProps) {
  const t = useTexts();
  const e = t.editor;
  const tenant = useTenant();
  const now = useNow(1000);
  const { data } = useQuery({ ...eventsOf(tenant, subject, 1), staleTime: 0 });
  const last = data?.items[0];
  return (
    <Dialog title={e.conflict} close={close} size={640}>
      <div className="stack">
        {last && <p style={{ margin: 0 }}>{e.conflictBy(last.author, duration((now - last.at) / 1000))}</p>}
        <section className="panel" aria-label={e.conflictTheirs}>
          <div className="panel-head">
            <h2>{e.conflictTheirs}</h2>
          </div>
          <Diff before={theirs} after={mine} nothing={e.noChanges} />
        </section>
        <div style={{ display: 'flex', gap: 16, flexWrap: 'wrap' }}>
          <div>
            <button type="button" className="btn" onClick={() => choose(true)}>
              {e.takeTheirs}
            </button>
            <div className="sub">{takeHint}</div>
          </div>
          <div className="grow">
            <button type="button" className="btn" onClick={() => choose(false)}>
              {e.keepMine}
            </button>
            <div className="sub">{keepHint}</div>
          </div>
        </div>
      </div>
    </Dialog>
  );
}
