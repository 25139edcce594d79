import { IconArrowBackUp, IconArrowForwardUp, IconDeviceFloppy, IconDots } from '@tabler/icons-react';
import { keepPreviousData, useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useCallback, useEffect, useMemo, useState } from 'react';
import { api, body, Problem, type Schemas } from '../api/client';
import { figures, hits as hitsQuery, names as namesQuery, policy as policyQuery } from '../api/queries';
import { useRole, useSettled, useTenant } from '../parts/hooks';
import { Menu, MenuItem } from '../parts/menu';
import { Fresh, Page, ProblemNote, ReadOnly, Skeleton } from '../parts/parts';
import { useKeys } from '../shell/keys';
import { useTexts } from '../text/language';
import { ConflictDialog } from './policy/ConflictDialog';
import { Diff, textOf } from './policy/Diff';
import { DryRun } from './policy/DryRun';
import { History } from './policy/History';
import { Lanes } from './policy/Lanes';
import { busiest, changesSince, labelsOf, labelWords, type PolicyDoc, placed, same } from './policy/model';
import { hitsByPlace } from './policy/names';
import { RemoveDialog } from './policy/RemoveDialog';
import { RollOutDialog } from './policy/RollOutDialog';
import { type Decided, TryConnection } from './policy/TryConnection';
import { useEditor, type Written } from './policy/useEditor';
import { YamlEditor } from './policy/YamlEditor';

const route = getRouteApi('/t/$tenant/policies/$policy');
type Found = Schemas['PolicyDocument'];

export function Policy() {
  const t = useTexts();
  const tenant = useTenant();
  const { policy: name } = route.useParams();
  const query = useQuery(policyQuery(tenant, name));
  return (
    <Fresh query={query}>
      {query.data ? (
        <Editor key={`${tenant}/${name}`} found={query.data} />
      ) : (
        <Page title={name} crumbs={<span>{t.policies.title}</span>}>
          <Skeleton width="100%" height={480} />
        </Page>
      )}
    </Fresh>
  );
}

function writtenOf(content: Schemas['ContentDocument'] | null): Written | null {
  return content && { doc: content.document as PolicyDoc, selector: content.selector, nodes: content.nodes };
}

function startOf(found: Found): Written {
  return (
    writtenOf(found.draft ?? found.in_force) ?? { doc: { total: '100Mbit', classes: [] }, selector: {}, nodes: {} }
  );
}

function Editor({ found }: { found: Found }) {
  const t = useTexts();
  const e = t.editor;
  const tenant = useTenant();
  const queries = useQueryClient();
  const { role, may } = useRole();
  const { tab = 'lanes' } = route.useSearch();
  const { name } = found;
  const editor = useEditor(found.version, startOf(found));
  const { now, dirty, write, dispatch } = editor;
  const [conflict, setConflict] = useState<Found | undefined>();
  const [rollingOut, setRollingOut] = useState(false);
  const [removing, setRemoving] = useState(false);
  const [decided, setDecided] = useState<Decided | undefined>();
  const readOnly = !may('editor');
  const inForce = writtenOf(found.in_force);

  const checked = useSettled(now.doc, 250);
  const check = useQuery({
    queryKey: ['validate', JSON.stringify(checked)],
    queryFn: () => body(api.POST('/v1/validate', { body: { document: checked as Record<string, unknown> } })),
    placeholderData: keepPreviousData,
    staleTime: Number.POSITIVE_INFINITY,
    retry: (failures, error) => failures < 2 && !(error instanceof Problem && error.status === 422),
  });
  const refused = check.error instanceof Problem && check.error.status === 422 ? check.error : undefined;
  const problems = useMemo(() => (refused?.problems ?? []).map(placed), [refused]);
  const busy = useBusy(name);
  const { hits, seen } = useSeen(name, found.in_force !== null);

  // What others have saved is taken over where nothing is lost by it.
  useEffect(() => {
    if (found.version === editor.version) return;
    const saved = startOf(found);
    if (!dirty || same(saved, now)) dispatch({ do: 'based', version: found.version, saved, take: true });
  }, [found, editor.version, dirty, now, dispatch]);

  const keep = useCallback(
    (answer: Found, sent: Written) => {
      queries.setQueryData(policyQuery(tenant, name).queryKey, answer);
      dispatch({ do: 'kept', version: answer.version, saved: startOf(answer), sent });
    },
    [queries, tenant, name, dispatch],
  );
  const conflicting = async (error: Error) => {
    if (!(error instanceof Problem) || error.status !== 412) return;
    setConflict(await queries.fetchQuery({ ...policyQuery(tenant, name), staleTime: 0 }));
  };
  const params = { path: { tenant, policy: name }, header: { 'if-match': `"${editor.version}"` } };
  const save = useMutation({
    mutationFn: async (sent: Written) =>
      (await body(
        api.PUT('/v1/tenants/{tenant}/policies/{policy}/draft', {
          params,
          body: { document: sent.doc as Record<string, unknown>, selector: sent.selector, nodes: sent.nodes },
        }),
      )) as Found,
    onSuccess: keep,
    onError: conflicting,
  });
  const discard = useMutation({
    mutationFn: async () =>
      (await body(api.DELETE('/v1/tenants/{tenant}/policies/{policy}/draft', { params }))) as Found,
    onSuccess: (answer) => {
      queries.setQueryData(policyQuery(tenant, name).queryKey, answer);
      // Undo brings back what was written.
      dispatch({ do: 'based', version: answer.version, saved: startOf(answer), take: true });
    },
    onError: conflicting,
  });
  const failed = [save.error, discard.error].find(
    (error) => error && !(error instanceof Problem && error.status === 412),
  );

  useKeys(
    useCallback(
      (event, writing) => {
        if (!(event.ctrlKey || event.metaKey)) return;
        const key = event.key.toLowerCase();
        if (key === 's') {
          event.preventDefault();
          if (dirty && !readOnly) save.mutate(now);
        } else if (key === 'z' && !writing) {
          event.preventDefault();
          dispatch({ do: event.shiftKey ? 'redo' : 'undo' });
        }
      },
      [dirty, readOnly, save, now, dispatch],
    ),
  );
  // A page that is left takes with it what is written and not saved.
  useEffect(() => {
    if (!dirty) return;
    const ask = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener('beforeunload', ask);
    return () => window.removeEventListener('beforeunload', ask);
  }, [dirty]);

  const changes = inForce
    ? changesSince(now.doc, inForce.doc) +
      (same(now.selector, inForce.selector) ? 0 : 1) +
      (same(now.nodes, inForce.nodes) ? 0 : 1)
    : 0;
  const differs = !inForce || changes > 0;
  const ready = !refused && !check.isFetching && same(checked, now.doc);
  const stale = found.version !== editor.version && dirty;
  return (
    <Page
      crumbs={
        <>
          <Link to="/t/$tenant/policies" params={{ tenant }}>
            {t.policies.title}
          </Link>
          / <span>{name}</span>
        </>
      }
      title={
        <>
          {name}
          {differs ? (
            <span className="pill accent">{e.draftOn(changes, found.revision)}</span>
          ) : (
            <span className="pill ok">{e.sameAs(found.revision)}</span>
          )}
        </>
      }
      sub={differs && (dirty ? e.unsaved : e.saved)}
      actions={
        !readOnly && (
          <>
            <button
              type="button"
              className="btn"
              disabled={editor.past.length === 0}
              aria-label={e.undo}
              onClick={() => dispatch({ do: 'undo' })}
            >
              <IconArrowBackUp size={16} />
              <span className="wide">{e.undo}</span>
            </button>
            <button
              type="button"
              className="btn wide"
              disabled={editor.future.length === 0}
              onClick={() => dispatch({ do: 'redo' })}
              aria-label={e.redo}
              title={e.redo}
            >
              <IconArrowForwardUp size={16} />
            </button>
            <button type="button" className="btn" disabled={!dirty || save.isPending} onClick={() => save.mutate(now)}>
              <IconDeviceFloppy size={16} />
              {e.save}
            </button>
            {refused && <span className="pill bad">{e.problems(Math.max(1, problems.length))}</span>}
            {may('operator') && (
              <button
                type="button"
                className="btn primary"
                disabled={!ready || !differs}
                onClick={() => setRollingOut(true)}
              >
                {e.review}
              </button>
            )}
            <Menu
              className="btn plain"
              aria-label={t.nav.more}
              items={
                <>
                  <MenuItem disabled={!found.draft} onClick={() => discard.mutate()}>
                    {e.discard}
                  </MenuItem>
                  {may('operator') && (
                    <MenuItem className="bad" disabled={!found.in_force} onClick={() => setRemoving(true)}>
                      {e.removePolicy} …
                    </MenuItem>
                  )}
                </>
              }
            >
              <IconDots size={18} />
            </Menu>
          </>
        )
      }
    >
      {role && readOnly && <ReadOnly role={role} needed="editor" />}
      {role && !readOnly && !may('operator') && <ReadOnly role={role} needed="operator" />}
      {failed && <ProblemNote error={failed} />}
      {stale && (
        <div className="note warn" role="status" style={{ marginBottom: 12 }}>
          <p className="grow">{e.conflict}.</p>
          <button type="button" className="btn small" onClick={() => setConflict(found)}>
            {e.compare}
          </button>
        </div>
      )}
      <nav className="tabs" aria-label={name}>
        {(['lanes', 'yaml', 'history'] as const).map((each) => (
          <Link
            key={each}
            to="/t/$tenant/policies/$policy"
            params={{ tenant, policy: name }}
            search={each === 'lanes' ? {} : { tab: each }}
            activeOptions={{ exact: true }}
            activeProps={{}}
            className={each === tab ? 'active' : ''}
            aria-current={each === tab ? 'page' : undefined}
          >
            {e.tabs[each]}
          </Link>
        ))}
      </nav>
      {tab === 'history' ? (
        <History found={found} current={now} restore={readOnly ? undefined : (next) => write(next)} />
      ) : (
        <div className="two">
          <div className="stack">
            {tab === 'yaml' ? (
              <YamlEditor
                doc={now.doc}
                problems={problems}
                readOnly={readOnly}
                change={(doc) => write({ ...now, doc })}
              />
            ) : (
              <Lanes
                doc={now.doc}
                inForce={inForce?.doc ?? null}
                problems={problems}
                busy={busy}
                hits={hits}
                seen={seen}
                readOnly={readOnly}
                decided={decided}
                change={(doc, joined) => write({ ...now, doc }, joined)}
              />
            )}
          </div>
          <aside className="stack">
            <section className="panel stack" style={{ padding: '11px 14px' }}>
              <Labels
                id="selector"
                label={t.policies.selector}
                all={t.policies.everyPod}
                help={e.selectorHelp}
                labels={now.selector}
                readOnly={readOnly}
                change={(selector) => write({ ...now, selector })}
              />
              <Labels
                id="nodes"
                label={t.policies.nodes}
                all={t.policies.everyNode}
                help={e.nodesHelp}
                labels={now.nodes}
                readOnly={readOnly}
                change={(nodes) => write({ ...now, nodes })}
              />
            </section>
            <TryConnection doc={now.doc} show={setDecided} />
            <DryRun name={name} written={now} />
            <section className="panel" aria-label={e.changes}>
              <div className="panel-head">
                <h2>{e.changes}</h2>
                {differs && inForce && (
                  <span className="sub right">
                    r{found.revision} → {t.policies.draft}
                  </span>
                )}
              </div>
              {inForce ? (
                <Diff before={textOf(inForce)} after={textOf(now)} nothing={e.noChanges} />
              ) : (
                <p className="sub diff-none">{e.againstNothing}</p>
              )}
            </section>
            <section className="panel" aria-label={e.means}>
              <div className="panel-head">
                <h2>{e.means}</h2>
              </div>
              {refused || !check.data ? (
                check.isError && !refused ? (
                  <div className="pad">
                    <ProblemNote error={check.error} retry={() => void check.refetch()} />
                  </div>
                ) : (
                  <p className="sub diff-none">{refused ? e.meansNot : <Skeleton width="100%" height={120} />}</p>
                )
              ) : (
                <Meaning text={check.data.meaning} />
              )}
            </section>
          </aside>
        </div>
      )}
      {conflict && (
        <ConflictDialog
          subject={`policy/${conflict.name}`}
          theirs={textOf(startOf(conflict))}
          mine={textOf(now)}
          takeHint={e.takeTheirsHint}
          keepHint={e.keepMineHint}
          close={() => setConflict(undefined)}
          choose={(take) => {
            dispatch({ do: 'based', version: conflict.version, saved: startOf(conflict), take });
            save.reset();
            setConflict(undefined);
          }}
        />
      )}
      {rollingOut && (
        <RollOutDialog
          found={found}
          before={inForce}
          after={now}
          saveFirst={dirty ? () => save.mutateAsync(now) : undefined}
          close={() => setRollingOut(false)}
        />
      )}
      {removing && <RemoveDialog found={found} close={() => setRemoving(false)} />}
    </Page>
  );
}

interface LabelsProps {
  id: string;
  label: string;
  all: string;
  help: string;
  labels: Record<string, string>;
  readOnly: boolean;
  change: (labels: Record<string, string>) => void;
}

function Labels({ id, label, all, help, labels, readOnly, change }: LabelsProps) {
  const t = useTexts();
  const [text, setText] = useState(labelWords(labels));
  const [known, setKnown] = useState(labels);
  if (!same(known, labels)) {
    setKnown(labels);
    if (!same(labelsOf(text), labels)) setText(labelWords(labels));
  }
  const wrong = labelsOf(text) === undefined;
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        className={`input mono ${wrong ? 'wrong' : ''}`}
        value={text}
        readOnly={readOnly}
        placeholder={all}
        aria-invalid={wrong}
        aria-describedby={`${id}-help`}
        onChange={(event) => {
          setText(event.target.value);
          const found = labelsOf(event.target.value);
          if (found) change(found);
        }}
      />
      <span className="sub" id={`${id}-help`} style={wrong ? { color: 'var(--bad)' } : undefined}>
        {wrong ? t.editor.selectorWrong : help}
      </span>
    </div>
  );
}

/** The server's words: paragraphs, of which lines that begin with a dash are items. */
function Meaning({ text }: { text: string }) {
  return (
    <div className="meaning">
      {text.split('\n\n').map((paragraph) => {
        const [head = '', ...items] = paragraph.split(/\n? {0,2}- /);
        return (
          <div key={paragraph}>
            {head.trim() && <p>{head.replace(/\s+/g, ' ')}</p>}
            {items.length > 0 && (
              <ul>
                {items.map((item) => (
                  <li key={item}>{item.replace(/\s+/g, ' ')}</li>
                ))}
              </ul>
            )}
          </div>
        );
      })}
    </div>
  );
}

const MOST_SEEN = 500;

/** Connections of the last hour: by match, and by the names that they had. Before a policy is in force anywhere, names
 * of all workloads are those that it could be for. */
function useSeen(name: string, inForce: boolean) {
  const tenant = useTenant();
  const { data } = useQuery({ ...hitsQuery(tenant, name), enabled: inForce });
  const hits = useMemo(() => (inForce && data ? hitsByPlace(data) : undefined), [data, inForce]);
  const found = useInfiniteQuery(namesQuery(tenant, inForce ? { policy: name } : {}, MOST_SEEN));
  const seen = useMemo(() => found.data?.pages.flatMap((page) => page.items), [found.data]);
  return { hits, seen };
}

const LAST = 900;

/** What a Pod sends in each lane in its busiest twentieth of the last time: a mean over the Pods that have the policy. */
function useBusy(name: string): Map<string, number> {
  const tenant = useTenant();
  const { data } = useQuery({ ...figures(tenant, LAST, name), staleTime: 30_000 });
  return useMemo(() => {
    const found = new Map<string, number>();
    for (const lane of data?.lanes ?? []) {
      if (lane.direction !== 'egress' || !lane.workloads) continue;
      const value = busiest(lane.bytes.filter((bytes) => bytes > 0).map((bytes) => (bytes * 8) / lane.workloads));
      if (value !== undefined) found.set(lane.lane, value);
    }
    return found;
  }, [data]);
}
