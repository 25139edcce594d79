/** Names that are in no lane of the draft, to be put into one: by its menu, or drawn there. */
import { useDraggable } from '@dnd-kit/core';
import { IconChevronDown, IconGripVertical } from '@tabler/icons-react';
import { useState } from 'react';
import { Menu, MenuItem } from '../../parts/menu';
import { useTexts } from '../../text/language';
import { type Lane, lanesOf, type PolicyDoc } from './model';
import { few, nameId, type SeenName, unsorted } from './names';

const SHOWN = 8;

interface UnsortedProps {
  doc: PolicyDoc;
  seen: SeenName[] | undefined;
  readOnly: boolean;
  /** Into the lane of this index; one after the last: a new one. */
  put: (seen: SeenName, at: number) => void;
}

export function Unsorted({ doc, seen, readOnly, put }: UnsortedProps) {
  const t = useTexts();
  const n = t.names;
  const [all, setAll] = useState(false);
  const found = unsorted(doc, seen ?? []);
  return (
    <section className="unsorted" aria-label={n.unsorted}>
      <div className="panel-head">
        <h2>{n.unsorted}</h2>
        <span className="sub right">{n.lastHour}</span>
      </div>
      {seen && found.length === 0 && <p className="sub diff-none">{seen.length ? n.allSorted : n.noneYet}</p>}
      {found.slice(0, all ? undefined : SHOWN).map((each) => (
        <Row key={nameId(each)} seen={each} lanes={lanesOf(doc)} readOnly={readOnly} put={put} />
      ))}
      {found.length > SHOWN && !all && (
        <div style={{ padding: '6px 14px 12px' }}>
          <button type="button" className="btn small" onClick={() => setAll(true)}>
            {n.more(found.length - SHOWN)}
          </button>
        </div>
      )}
    </section>
  );
}

function Row({
  seen,
  lanes,
  readOnly,
  put,
}: {
  seen: SeenName;
  lanes: Lane[];
  readOnly: boolean;
  put: UnsortedProps['put'];
}) {
  const t = useTexts();
  const n = t.names;
  const { listeners, setNodeRef, transform, isDragging } = useDraggable({ id: nameId(seen), disabled: readOnly });
  return (
    <div
      ref={setNodeRef}
      className={`unsorted-row ${isDragging ? 'dragged' : ''}`}
      style={{ transform: transform ? `translate(${transform.x}px, ${transform.y}px)` : undefined }}
    >
      {readOnly ? (
        <span />
      ) : (
        // The menu is what the keyboard has.
        <span className="grip" aria-hidden onPointerDown={(event) => listeners?.onPointerDown?.(event)}>
          <IconGripVertical size={16} />
        </span>
      )}
      <div className="cut">
        <div className="mono unsorted-name">{seen.name}</div>
        <div className="sub cut">
          {t.editor.criteria[seen.kind]} · {t.editor.criteria.port} {seen.port} · {n.perHour(few(seen.connections))}
          {seen.workload && ` · ${seen.workload}`}
        </div>
      </div>
      <span className={`pill ${seen.decided === 'default' ? 'warn' : ''}`}>
        {seen.decided === 'default' ? n.noLane : n.byPort(seen.lane)}
      </span>
      {!readOnly && (
        <Menu
          className="btn small"
          data-row
          aria-label={n.putOf(seen.name)}
          items={
            <>
              {lanes.map((lane, at) => (
                <MenuItem key={lane.name ?? at} onClick={() => put(seen, at)}>
                  {lane.name}
                </MenuItem>
              ))}
              <MenuItem onClick={() => put(seen, lanes.length)}>{n.newLane}</MenuItem>
            </>
          }
        >
          {n.put}
          <IconChevronDown size={13} aria-hidden />
        </Menu>
      )}
    </div>
  );
}
