import { IconPlus } from '@tabler/icons-react';
import { useInfiniteQuery, useMutation } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { api, body, type Schemas } from '../api/client';
import { policies } from '../api/queries';
import { useRole, useSettled, useTenant } from '../parts/hooks';
import { Dialog } from '../parts/overlays';
import { Fresh, Page, ProblemNote, ReadOnly, Skeleton } from '../parts/parts';
import { useTexts } from '../text/language';
import { Bars } from './policy/Bars';
import { labelWords, lanesOf, type PolicyDoc } from './policy/model';
import { OBSERVING } from './policy/names';

const route = getRouteApi('/t/$tenant/policies');
const PREFIX = /^[a-z0-9.-]{0,253}$/;

export function Policies() {
  const t = useTexts();
  const tenant = useTenant();
  const { role, may } = useRole();
  const asked = route.useSearch();
  const navigate = route.useNavigate();
  const { observe, ...filter } = asked;
  const list = useInfiniteQuery(policies(tenant, filter));
  const [prefix, setPrefix] = useState(asked.name ?? '');
  const [making, setMaking] = useState(observe === true);
  const settled = useSettled(prefix.trim().toLowerCase(), 250);
  useEffect(() => {
    if (PREFIX.test(settled))
      void navigate({ search: (now) => ({ ...now, name: settled || undefined }), replace: true });
  }, [settled, navigate]);
  const found = list.data?.pages.flatMap((page) => page.items);
  const filtered = Boolean(asked.name || asked.draft || asked.in_force);
  return (
    <Page
      title={t.policies.title}
      sub={<span className="wide">{t.policies.sub}</span>}
      actions={
        <>
          <Link className="btn" to="/t/$tenant/names" params={{ tenant }}>
            {t.names.title}
          </Link>
          {may('editor') && (
            <button type="button" className="btn primary" onClick={() => setMaking(true)}>
              <IconPlus size={16} />
              {t.policies.make}
            </button>
          )}
        </>
      }
    >
      {role && !may('editor') && <ReadOnly role={role} needed="editor" />}
      <section className="panel">
        <div className="filters">
          <input
            className="input"
            type="search"
            aria-label={t.policies.prefix}
            placeholder={t.policies.prefix}
            value={prefix}
            onChange={(event) => setPrefix(event.target.value)}
          />
          <div className="segments">
            <button
              type="button"
              aria-pressed={!asked.draft && !asked.in_force}
              onClick={() => void navigate({ search: (now) => ({ name: now.name }) })}
            >
              {t.all}
            </button>
            <button
              type="button"
              aria-pressed={Boolean(asked.in_force)}
              onClick={() => void navigate({ search: (now) => ({ name: now.name, in_force: true }) })}
            >
              {t.policies.onlyInForce}
            </button>
            <button
              type="button"
              aria-pressed={Boolean(asked.draft)}
              onClick={() => void navigate({ search: (now) => ({ name: now.name, draft: true }) })}
            >
              {t.policies.onlyDrafts}
            </button>
          </div>
        </div>
        <Fresh query={list}>
          {!found &&
            [0, 1, 2].map((at) => (
              <div key={at} className="policy-row">
                <Skeleton width="60%" />
                <Skeleton width="90%" height={20} />
                <Skeleton width={90} height={20} />
              </div>
            ))}
          {found?.map((each) => (
            <PolicyRow key={each.name} policy={each} />
          ))}
          {found?.length === 0 && (
            <div className="empty">
              <h2>{filtered ? t.policies.nothing : t.policies.empty}</h2>
              {!filtered && <p>{t.policies.emptyRemedy}</p>}
            </div>
          )}
          {list.hasNextPage && (
            <div style={{ padding: 12, textAlign: 'center' }}>
              <button type="button" className="btn small" onClick={() => void list.fetchNextPage()}>
                {t.policies.more}
              </button>
            </div>
          )}
        </Fresh>
      </section>
      {making && may('editor') && <Make observe={observe === true} close={() => setMaking(false)} />}
    </Page>
  );
}

function PolicyRow({ policy }: { policy: Schemas['PolicyDocument'] }) {
  const t = useTexts();
  const tenant = useTenant();
  const content = policy.in_force ?? policy.draft;
  const doc = (content?.document ?? {}) as PolicyDoc;
  return (
    <div className="policy-row">
      <div className="cut">
        <Link data-row to="/t/$tenant/policies/$policy" params={{ tenant, policy: policy.name }} className="row-link">
          {policy.name}
        </Link>
        <div className="sub cut">{labelWords(content?.selector ?? {}) || t.policies.everyPod}</div>
      </div>
      <div>
        <Bars doc={doc} />
        <div className="sub cut" style={{ marginTop: 3 }}>
          {String(doc.total ?? '')}
          {lanesOf(doc).length > 0 &&
            ` · ${lanesOf(doc)
              .map((lane) => lane.name)
              .join(', ')}`}
        </div>
      </div>
      <div className="policy-state">
        <PolicyState policy={policy} />
      </div>
    </div>
  );
}

export function PolicyState({ policy }: { policy: Schemas['PolicyDocument'] }) {
  const t = useTexts();
  return (
    <>
      {policy.draft && <span className="pill accent">{t.policies.draft}</span>}
      {policy.rollout === 'running' && <span className="pill accent">{t.policies.onItsWay}</span>}
      {policy.rollout === 'paused' && <span className="pill warn">{t.policies.paused}</span>}
      {policy.in_force ? (
        <span className="pill ok">{t.policies.inForce(policy.revision)}</span>
      ) : (
        <span className="pill">{policy.revision ? t.policies.removed : t.policies.neverInForce}</span>
      )}
    </>
  );
}

function Make({ observe, close }: { observe: boolean; close: () => void }) {
  const t = useTexts();
  const tenant = useTenant();
  const navigate = route.useNavigate();
  const [name, setName] = useState('');
  const [total, setTotal] = useState('100Mbit');
  const [observing, setObserving] = useState(observe);
  const make = useMutation({
    mutationFn: () =>
      body(
        api.PUT('/v1/tenants/{tenant}/policies/{policy}/draft', {
          params: { path: { tenant, policy: name }, header: { 'if-none-match': '*' } },
          body: { document: { total, classes: observing ? [OBSERVING] : [] }, selector: { app: name }, nodes: {} },
        }),
      ),
    onSuccess: () => void navigate({ to: '/t/$tenant/policies/$policy', params: { tenant, policy: name } }),
  });
  return (
    <Dialog title={t.policies.make} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          make.mutate();
        }}
      >
        <div className="field">
          <label htmlFor="new-name">{t.policies.name}</label>
          <input
            id="new-name"
            data-autofocus
            className="input"
            required
            value={name}
            onChange={(event) => setName(event.target.value)}
            aria-describedby="new-name-hint"
          />
          <span className="sub" id="new-name-hint">
            {t.policies.nameHint}
          </span>
        </div>
        <div className="field">
          <label htmlFor="new-total">{t.policies.total}</label>
          <input
            id="new-total"
            className="input"
            required
            value={total}
            onChange={(event) => setTotal(event.target.value)}
            aria-describedby="new-total-hint"
          />
          <span className="sub" id="new-total-hint">
            {t.policies.totalHint}
          </span>
        </div>
        <label className="check">
          <input type="checkbox" checked={observing} onChange={(event) => setObserving(event.target.checked)} />
          <span>{t.policies.observe}</span>
        </label>
        {make.isError && <ProblemNote error={make.error} />}
        <div>
          <button type="submit" className="btn primary" disabled={make.isPending}>
            {t.policies.makeGo}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
