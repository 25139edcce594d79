/** The lanes as a stack: the first match wins, so that their order is theirs to be moved, by mouse and by keyboard. */
import {
  type Announcements,
  type CollisionDetection,
  closestCenter,
  DndContext,
  type DragEndEvent,
  KeyboardSensor,
  PointerSensor,
  pointerWithin,
  useSensor,
  useSensors,
} from '@dnd-kit/core';
import {
  SortableContext,
  sortableKeyboardCoordinates,
  useSortable,
  verticalListSortingStrategy,
} from '@dnd-kit/sortable';
import { IconCircleX, IconGripVertical, IconPlus, IconTrash } from '@tabler/icons-react';
import { useMemo, useState } from 'react';
import { count, rate } from '../../parts/format';
import { useTexts } from '../../text/language';
import { Bars, laneColor } from './Bars';
import { MatchDialog } from './MatchDialog';
import {
  defaultRate,
  drawn,
  type Lane,
  lanesOf,
  type Match,
  matchesOf,
  type Placed,
  type PolicyDoc,
  parseRate,
  same,
  withLane,
  withMoved,
  withoutLane,
  withValue,
  wordsOf,
} from './model';
import {
  DRAWN_NAME,
  few,
  hitsOfLane,
  hitsPlace,
  nameId,
  readsNames,
  type SeenName,
  withLaneFor,
  withName,
} from './names';
import { Track } from './Track';
import { Unsorted } from './Unsorted';

export interface LanesProps {
  doc: PolicyDoc;
  inForce: PolicyDoc | null;
  problems: Placed[];
  /** The busiest twentieth of the last time, of a Pod, bit/s, by lane. */
  busy: Map<string, number>;
  /** How many connections each match has taken in the last hour; undefined: nobody knows. */
  hits: Map<string, number> | undefined;
  /** Names that connections had. */
  seen: SeenName[] | undefined;
  readOnly: boolean;
  /** The match that took the connection that was tried. */
  decided: { lane: number | null; match: number | null } | undefined;
  change: (doc: PolicyDoc, joined?: boolean) => void;
}

export function Lanes(props: LanesProps) {
  const { doc, problems, readOnly, change } = props;
  const t = useTexts();
  const e = t.editor;
  const lanes = lanesOf(doc);
  const ids = useMemo(() => idsOf(lanes), [lanes]);
  const total = parseRate(doc.total) ?? 0;
  const taken = lanes.reduce((sum, lane) => sum + (parseRate(lane.rate) ?? 0), defaultRate(doc));
  const sensors = useSensors(
    useSensor(PointerSensor, { activationConstraint: { distance: 4 } }),
    useSensor(KeyboardSensor, { coordinateGetter: sortableKeyboardCoordinates }),
  );
  const laneName = (id: unknown) => lanes[ids.indexOf(String(id))]?.name ?? '';
  const drawnName = (id: unknown) =>
    String(id).startsWith(DRAWN_NAME) ? props.seen?.find((each) => nameId(each) === id) : undefined;
  const put = (seen: SeenName, at: number) =>
    change(at < lanes.length ? withName(doc, at, seen) : withLaneFor(doc, freeName(lanes, e.newLane), seen));
  const place = (id: unknown) => ids.indexOf(String(id)) + 1;
  const announcements: Announcements = {
    onDragStart: ({ active }) => {
      const seen = drawnName(active.id);
      return seen ? t.names.takeName(seen.name) : e.dragStart(laneName(active.id));
    },
    onDragOver: ({ active, over }) => {
      const seen = drawnName(active.id);
      if (!over) return undefined;
      return seen ? t.names.overLane(seen.name, laneName(over.id)) : e.dragOver(laneName(active.id), place(over.id));
    },
    onDragEnd: ({ active, over }) => {
      const seen = drawnName(active.id);
      if (seen) return over ? t.names.intoLane(seen.name, laneName(over.id)) : e.dragCancel(seen.name);
      return e.dragEnd(laneName(active.id), place(over?.id ?? active.id));
    },
    onDragCancel: ({ active }) => e.dragCancel(drawnName(active.id)?.name ?? laneName(active.id)),
  };
  const dropped = ({ active, over }: DragEndEvent) => {
    const seen = drawnName(active.id);
    if (seen) {
      if (over) put(seen, ids.indexOf(String(over.id)));
      return;
    }
    if (over && active.id !== over.id)
      change(withMoved(doc, ids.indexOf(String(active.id)), ids.indexOf(String(over.id))));
  };
  return (
    <section className="panel lanes" aria-label={e.tabs.lanes}>
      <div className="link">
        <div className="link-head">
          <h2>{e.each(rate(total))}</h2>
          <label className="total">
            <span className="hidden">{t.policies.total}</span>
            <input
              className={`input num ${problems.some((each) => each.key === 'total') ? 'wrong' : same(doc.total, props.inForce?.total) || !props.inForce ? '' : 'changed'}`}
              value={String(doc.total ?? '')}
              readOnly={readOnly}
              onChange={(event) => change({ ...doc, total: event.target.value })}
            />
          </label>
          {!readOnly && (
            <button
              type="button"
              className="btn small"
              onClick={() =>
                change({
                  ...doc,
                  classes: [...lanes, { name: freeName(lanes, e.newLane), rate: '1Mbit', match: [{ port: [443] }] }],
                })
              }
            >
              <IconPlus size={14} />
              {e.addLane}
            </button>
          )}
        </div>
        <Bars doc={doc} tall />
        <div className="sub link-foot num">
          <span>
            {e.guaranteed(rate(taken))}{' '}
            <b style={{ color: taken > total ? 'var(--bad)' : 'var(--ink)' }}>
              {taken > total ? e.over(rate(taken - total)) : e.free(rate(total - taken))}
            </b>{' '}
            {e.byPriority}
          </span>
          {props.busy.size > 0 && (
            <span title={e.busiestMean}>
              <i className="busy-mark" />
              {e.busiest}
            </span>
          )}
          <span className="wide right">{e.firstMatch}</span>
        </div>
      </div>
      {problems
        .filter((each) => each.lane === undefined || each.lane >= lanes.length)
        .map((each) => (
          <div key={each.path + each.message} style={{ padding: '0 14px 12px' }}>
            <Told problem={each} {...props} />
          </div>
        ))}
      <DndContext
        sensors={sensors}
        collisionDetection={where}
        onDragEnd={dropped}
        accessibility={{ announcements, screenReaderInstructions: { draggable: e.dragHelp } }}
      >
        <SortableContext items={ids} strategy={verticalListSortingStrategy}>
          {lanes.map((lane, at) => (
            <LaneRow key={ids[at]} id={ids[at] ?? ''} lane={lane} at={at} all={lanes.length} total={total} {...props} />
          ))}
        </SortableContext>
        <DefaultLane {...props} total={total} />
        <Unsorted doc={doc} seen={props.seen} readOnly={readOnly} put={put} />
      </DndContext>
    </section>
  );
}

/** A name is in the lane that the pointer is in; a lane takes the nearest place. */
const where: CollisionDetection = (asked) =>
  String(asked.active.id).startsWith(DRAWN_NAME) ? pointerWithin(asked) : closestCenter(asked);

function DefaultLane(props: LanesProps & { total: number }) {
  const { doc, total } = props;
  const t = useTexts();
  const e = t.editor;
  const hits = props.hits?.get(hitsPlace('default', null));
  return (
    <div className={`lane ${props.decided?.lane === null ? 'decided' : ''}`}>
      <span />
      <div>
        <div className="lane-name">
          <i className="dot" style={{ background: 'var(--lane-other)' }} />
          default
        </div>
        <div className="sub">
          {e.everythingElse}
          {hits !== undefined && ` · ${t.names.connectionsAnHour(few(hits))}`}
        </div>
      </div>
      <Track
        lane={{ ...doc.default, name: 'default', rate: defaultRate(doc) }}
        at={-1}
        total={total}
        busy={props.busy.get('default')}
        wrong={false}
        draw={undefined}
      />
      <div className="sub num">
        {rate(defaultRate(doc))} – {doc.default?.ceil ? String(doc.default.ceil) : rate(total)}
      </div>
    </div>
  );
}

interface RowProps extends LanesProps {
  id: string;
  lane: Lane;
  at: number;
  all: number;
  total: number;
}

function LaneRow(props: RowProps) {
  const { id, lane, at, all, total, doc, inForce, readOnly, change, busy } = props;
  const t = useTexts();
  const e = t.editor;
  const [editing, setEditing] = useState<number | undefined>();
  const { active, attributes, isOver, listeners, setNodeRef, transform, transition, isDragging } = useSortable({
    id,
    disabled: readOnly,
  });
  const takesName = isOver && String(active?.id ?? '').startsWith(DRAWN_NAME);
  const taken = props.hits && hitsOfLane(props.hits, lane);
  const problems = props.problems.filter((each) => each.lane === at);
  const name = lane.name ?? '';
  const was = inForce ? (lanesOf(inForce).find((each) => each.name === lane.name) ?? {}) : lane;
  const look = (key: keyof Lane & string) =>
    `input num ${problems.some((each) => each.key === key || (each.key === 'ceil' && key === 'rate')) ? 'wrong' : same(lane[key], was[key]) ? '' : 'changed'}`;
  const set = (key: string) => (value: string) =>
    change(withLane(doc, at, { [key]: value === '' ? undefined : value }));
  const matches = matchesOf(lane);
  const oldMatches = matchesOf(was as Lane).map((each) => JSON.stringify(each));
  const setMatch = (index: number, match: Match | undefined) => {
    const next = [...matches];
    if (match) next[index] = match;
    else next.splice(index, 1);
    change(withLane(doc, at, { match: next }));
    setEditing(undefined);
  };
  return (
    <div
      ref={setNodeRef}
      className={`lane ${problems.length ? 'wrong' : ''} ${isDragging ? 'dragged' : ''} ${props.decided?.lane === at || takesName ? 'decided' : ''}`}
      style={{ transform: transform ? `translateY(${transform.y}px)` : undefined, transition }}
    >
      {readOnly ? (
        <span />
      ) : (
        <button
          type="button"
          className="grip"
          data-row
          {...attributes}
          {...listeners}
          aria-label={e.move(name, at + 1, all)}
        >
          <IconGripVertical size={18} />
        </button>
      )}
      <div className="lane-title">
        <div className="lane-name">
          <i className="dot" style={{ background: laneColor(at) }} />
          <NameInput name={name} readOnly={readOnly} rename={(next) => change(withLane(doc, at, { name: next }))} />
        </div>
        <div className="sub">
          {at + 1}
          {taken ? ` · ${t.names.connectionsAnHour(few(taken))}` : ''}
          {!readOnly && (
            <button
              type="button"
              className="btn plain lane-remove"
              onClick={() => change(withoutLane(doc, at))}
              aria-label={e.removeLane(name)}
              title={e.removeLane(name)}
            >
              <IconTrash size={14} />
            </button>
          )}
        </div>
      </div>
      <Track
        lane={lane}
        at={at}
        total={total}
        busy={busy.get(name)}
        wrong={problems.length > 0}
        draw={
          readOnly ? undefined : (key, bits, joined) => change(withLane(doc, at, drawn(lane, key, bits, total)), joined)
        }
      />
      <div className="limits">
        <Limit
          id={`${id}rate`}
          label={e.rate}
          of={e.of(e.rate, name)}
          look={look('rate')}
          value={lane.rate}
          readOnly={readOnly}
          set={set('rate')}
        />
        <Limit
          id={`${id}ceil`}
          label={e.ceil}
          of={e.of(e.ceil, name)}
          look={look('ceil')}
          value={lane.ceil}
          readOnly={readOnly}
          set={set('ceil')}
          hint={String(doc.total ?? '')}
        />
        <Limit
          id={`${id}priority`}
          label={e.priority}
          of={e.of(e.priority, name)}
          look={look('priority')}
          value={lane.priority}
          readOnly={readOnly}
          set={(value) =>
            change(
              withLane(doc, at, { priority: value === '' ? undefined : /^\d+$/.test(value) ? Number(value) : value }),
            )
          }
          hint="4"
        />
      </div>
      <div className="chips">
        {matches.map((match, index) => (
          <Chip
            key={index}
            match={match}
            hits={props.hits?.get(hitsPlace(lane.name, match))}
            fresh={!oldMatches.includes(JSON.stringify(match))}
            decided={props.decided?.lane === at && props.decided.match === index}
            edit={readOnly ? undefined : () => setEditing(index)}
          />
        ))}
        {!readOnly && (
          <button
            type="button"
            className="btn small"
            onClick={() => setEditing(matches.length)}
            aria-label={e.of(e.addMatch, name)}
          >
            <IconPlus size={13} />
            {e.addMatch}
          </button>
        )}
      </div>
      {problems.map((each) => (
        <Told key={each.path + each.message} problem={each} {...props} />
      ))}
      {editing !== undefined && (
        <MatchDialog
          lane={name}
          match={matches[editing] ?? { sni: [] }}
          seen={props.seen ?? []}
          close={() => setEditing(undefined)}
          keep={(match) => setMatch(editing, match)}
          remove={editing < matches.length ? () => setMatch(editing, undefined) : undefined}
        />
      )}
    </div>
  );
}

function NameInput({ name, readOnly, rename }: { name: string; readOnly: boolean; rename: (name: string) => void }) {
  const t = useTexts();
  const [text, setText] = useState(name);
  const [known, setKnown] = useState(name);
  if (known !== name) {
    setKnown(name);
    setText(name);
  }
  if (readOnly) return <span className="cut">{name}</span>;
  // The lane is known by its name: it is renamed when the name is complete.
  return (
    <input
      className="name-input"
      aria-label={t.editor.rename(name)}
      value={text}
      size={Math.max(4, text.length)}
      onChange={(event) => setText(event.target.value)}
      onBlur={() => text !== name && rename(text.trim())}
      onKeyDown={(event) => {
        if (event.key === 'Enter') event.currentTarget.blur();
      }}
    />
  );
}

interface LimitProps {
  id: string;
  label: string;
  of: string;
  look: string;
  value: unknown;
  readOnly: boolean;
  set: (value: string) => void;
  hint?: string;
}

function Limit({ id, label, of, look, value, readOnly, set, hint }: LimitProps) {
  return (
    <div>
      <label htmlFor={id}>
        {label}
        <span className="hidden"> {of.slice(label.length)}</span>
      </label>
      <input
        id={id}
        className={look}
        value={String(value ?? '')}
        placeholder={hint}
        readOnly={readOnly}
        aria-invalid={look.includes('wrong')}
        onChange={(event) => set(event.target.value)}
      />
    </div>
  );
}

interface ChipProps {
  match: Match;
  hits: number | undefined;
  fresh: boolean;
  decided: boolean;
  edit: (() => void) | undefined;
}

function Chip({ match, hits, fresh, decided, edit }: ChipProps) {
  const t = useTexts();
  const parts = Object.entries(match).map(([key, value], index) => (
    <span key={key} className="chip-part">
      {index > 0 && <em>{t.editor.and}</em>}
      <b>{t.editor.criteria[key] ?? key}</b>
      <span className="mono">{wordsOf(value)}</span>
    </span>
  ));
  // Of what no name decides it is not known everywhere: no figure is better than a wrong nought.
  const counted = hits !== undefined && (hits > 0 || readsNames(match));
  const told = counted ? t.names.hits(count(hits)) : hits === undefined ? undefined : t.names.notCounted;
  const figure = counted && <span className={`chip-hits num ${hits ? '' : 'none'}`}>{t.names.perHour(few(hits))}</span>;
  const look = `chip ${fresh ? 'fresh' : ''} ${decided ? 'decided' : ''}`;
  return edit ? (
    <button type="button" className={look} onClick={edit} title={told}>
      {parts}
      {figure}
    </button>
  ) : (
    <span className={look} title={told}>
      {parts}
      {figure}
    </span>
  );
}

/** What the server has against it, and its remedies: those that name a value are buttons. */
function Told({ problem, doc, change, readOnly }: LanesProps & { problem: Placed }) {
  const e = useTexts().editor;
  const mends = problem.mends ?? [];
  return (
    <div className="told" role="alert">
      <IconCircleX size={17} />
      <p>
        {problem.message} {(mends.length === 0 || readOnly) && problem.remedy}
      </p>
      {!readOnly &&
        mends.map((mend) => (
          <button
            key={mend.path}
            type="button"
            className="btn small"
            onClick={() => change(withValue(doc, mend.path, mend.value))}
          >
            {(mend.raises ? e.raise : e.lower)(e.keys[mend.path.replace(/^.*\./, '')] ?? mend.path, mend.value)}
          </button>
        ))}
    </div>
  );
}

/** Names, which stay with their lanes when these move; two of one name, which the server refuses, are told apart. */
function idsOf(lanes: Lane[]): string[] {
  const seen = new Map<string, number>();
  return lanes.map((lane) => {
    const name = lane.name ?? '';
    const times = seen.get(name) ?? 0;
    seen.set(name, times + 1);
    return `${name}·${times}`;
  });
}

function freeName(lanes: Lane[], name: (n: number) => string): string {
  let n = lanes.length + 1;
  while (lanes.some((lane) => lane.name === name(n))) n += 1;
  return name(n);
}
