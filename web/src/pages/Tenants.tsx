import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { api, type Schemas } from '../api/client';
import { grants, type Role, session, tenants } from '../api/queries';
import { viewAs } from '../api/viewAs';
import { count } from '../parts/format';
import { useRole, useTenant } from '../parts/hooks';
import { AddForm, AddInput, ListPanel } from '../parts/ListPanel';
import { Dialog } from '../parts/overlays';
import { Page, ProblemNote, ReadOnly } from '../parts/parts';
import { useTexts } from '../text/language';

const ROLES: Role[] = ['viewer', 'editor', 'operator', 'administrator'];

export function Tenants() {
  const t = useTexts();
  const p = t.tenantsPage;
  const tenant = useTenant();
  const { role, may, platform } = useRole();
  return (
    <Page title={t.nav.tenants} sub={<span className="wide">{p.sub}</span>}>
      {role && !may('administrator') && <ReadOnly role={role} needed="administrator" />}
      <div className="two">
        <div className="stack">
          <Grants admin={may('administrator')} />
          <TenantList platform={platform} />
        </div>
        <aside className="stack">
          <You />
          <section className="panel" aria-label={p.what}>
            <div className="panel-head">
              <h2>{p.what}</h2>
            </div>
            <dl className="facts pad">
              {ROLES.map((each) => (
                <div key={each} style={{ display: 'contents' }}>
                  <dt>{t.roles[each]}</dt>
                  <dd>
                    {p.roleMeans[each]}
                    {may('administrator') && each !== 'administrator' && (
                      <>
                        {' '}
                        <button
                          type="button"
                          className="btn small"
                          aria-label={p.seeAs(t.roles[each])}
                          onClick={() => viewAs({ tenant, role: each })}
                        >
                          {p.see}
                        </button>
                      </>
                    )}
                  </dd>
                </div>
              ))}
            </dl>
          </section>
        </aside>
      </div>
    </Page>
  );
}

function You() {
  const t = useTexts();
  const { data } = useQuery(session);
  return (
    <section className="panel" aria-label={t.tenantsPage.you}>
      <div className="panel-head">
        <h2>{t.tenantsPage.you}</h2>
      </div>
      <dl className="facts pad">
        <dt>{t.top.signedInAs}</dt>
        <dd className="mono">{data?.author}</dd>
        {Object.entries(data?.roles ?? {}).map(([tenant, role]) => (
          <div key={tenant} style={{ display: 'contents' }}>
            <dt>{tenant}</dt>
            <dd>{t.roles[role]}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function Grants({ admin }: { admin: boolean }) {
  const t = useTexts();
  const p = t.tenantsPage;
  const tenant = useTenant();
  const queries = useQueryClient();
  const list = useQuery(grants(tenant));
  const [group, setGroup] = useState('');
  const [role, setRole] = useState<Role>('viewer');
  const changed = () => queries.invalidateQueries({ queryKey: ['t', tenant, 'grants'] });
  const grant = useMutation({
    mutationFn: () =>
      api.PUT('/v1/tenants/{tenant}/grants/{group}', { params: { path: { tenant, group } }, body: { role } }),
    onSuccess: () => {
      setGroup('');
      return changed();
    },
  });
  const take = useMutation({
    mutationFn: (from: string) =>
      api.DELETE('/v1/tenants/{tenant}/grants/{group}', { params: { path: { tenant, group: from } } }),
    onSuccess: changed,
  });
  return (
    <ListPanel
      title={p.grants}
      query={list}
      nothing={p.grantsNone}
      head={
        <>
          <th>{p.group}</th>
          <th>{p.role}</th>
          {admin && (
            <th>
              <span className="hidden">{p.take}</span>
            </th>
          )}
        </>
      }
      row={(each) => (
        <tr key={each.group}>
          <td className="mono">{each.group}</td>
          <td>{t.roles[each.role]}</td>
          {admin && (
            <td className="r">
              <button
                type="button"
                className="btn small danger"
                onClick={() => take.mutate(each.group)}
                aria-label={`${p.take}: ${each.group}`}
              >
                {p.take}
              </button>
            </td>
          )}
        </tr>
      )}
      add={
        admin && (
          <AddForm label={p.grant} pending={grant.isPending} add={() => grant.mutate()}>
            <AddInput label={p.group} value={group} set={setGroup} />
            <select
              className="select"
              aria-label={p.role}
              value={role}
              onChange={(event) => setRole(event.target.value as Role)}
            >
              {ROLES.map((each) => (
                <option key={each} value={each}>
                  {t.roles[each]}
                </option>
              ))}
            </select>
          </AddForm>
        )
      }
      error={grant.error ?? take.error}
    />
  );
}

function TenantList({ platform }: { platform: boolean }) {
  const t = useTexts();
  const p = t.tenantsPage;
  const queries = useQueryClient();
  const list = useQuery(tenants);
  const [limiting, setLimiting] = useState<Schemas['TenantDocument'] | undefined>();
  const [name, setName] = useState('');
  const [title, setTitle] = useState('');
  const make = useMutation({
    mutationFn: () =>
      api.PUT('/v1/tenants/{tenant}', {
        params: { path: { tenant: name }, header: { 'if-none-match': '*' } },
        body: { title },
      }),
    onSuccess: () => {
      setName('');
      setTitle('');
      return queries.invalidateQueries({ queryKey: tenants.queryKey });
    },
  });
  return (
    <>
      <ListPanel
        title={p.all}
        query={list}
        head={
          <>
            <th>{t.policies.name}</th>
            <th className="wide">{p.makeTitle}</th>
            <th className="r">{p.agents}</th>
            <th className="r">{p.policies}</th>
            {platform && (
              <th>
                <span className="hidden">{p.quota}</span>
              </th>
            )}
          </>
        }
        row={(each) => (
          <tr key={each.name}>
            <td>
              <Link data-row to="/t/$tenant" params={{ tenant: each.name }}>
                {each.name}
              </Link>
            </td>
            <td className="wide">{each.name === 'platform' ? p.platform : each.title}</td>
            <Used there={each.agents} most={each.quota.agents ?? null} />
            <Used there={each.policies} most={each.quota.policies ?? null} />
            {platform && (
              <td className="r">
                <button
                  type="button"
                  className="btn small"
                  aria-label={p.quotaOf(each.name)}
                  onClick={() => setLimiting(each)}
                >
                  {p.quota} …
                </button>
              </td>
            )}
          </tr>
        )}
        add={
          platform && (
            <AddForm label={p.make} pending={make.isPending} add={() => make.mutate()}>
              <AddInput label={t.policies.name} value={name} set={setName} />
              <AddInput label={p.makeTitle} value={title} set={setTitle} required={false} />
            </AddForm>
          )
        }
        error={make.error}
      />
      {limiting && <QuotaDialog key={limiting.name} tenant={limiting} close={() => setLimiting(undefined)} />}
    </>
  );
}

/** How much there is, of what there may be. */
function Used({ there, most }: { there: number; most: number | null }) {
  const t = useTexts();
  const full = most !== null && there >= most;
  return (
    <td className="r" style={full ? { color: 'var(--warn)' } : undefined}>
      {most === null ? count(there) : t.tenantsPage.used(count(there), count(most))}
      {full && <span className="hidden"> {t.tenantsPage.full}</span>}
    </td>
  );
}

function QuotaDialog({ tenant, close }: { tenant: Schemas['TenantDocument']; close: () => void }) {
  const t = useTexts();
  const p = t.tenantsPage;
  const queries = useQueryClient();
  const [agents, setAgents] = useState(String(tenant.quota.agents ?? ''));
  const [policies, setPolicies] = useState(String(tenant.quota.policies ?? ''));
  const number = (text: string) => (text.trim() === '' ? null : Number(text));
  const limit = useMutation({
    mutationFn: () =>
      api.PUT('/v1/tenants/{tenant}/quota', {
        params: { path: { tenant: tenant.name }, header: { 'if-match': `"${tenant.version}"` } },
        body: { agents: number(agents), policies: number(policies) },
      }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: tenants.queryKey });
      close();
    },
  });
  return (
    <Dialog title={p.quotaOf(tenant.name)} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          limit.mutate();
        }}
      >
        <p className="sub" style={{ margin: 0 }}>
          {p.quotaMeans}
        </p>
        {(
          [
            ['quota-agents', p.agents, agents, setAgents],
            ['quota-policies', p.policies, policies, setPolicies],
          ] as const
        ).map(([id, label, value, set]) => (
          <div className="field" key={id}>
            <label htmlFor={id}>{label}</label>
            <input
              id={id}
              className="input num"
              type="number"
              min={0}
              max={1_000_000}
              placeholder={p.unlimited}
              value={value}
              onChange={(event) => set(event.target.value)}
            />
          </div>
        ))}
        {limit.isError && <ProblemNote error={limit.error} />}
        <div>
          <button type="submit" className="btn primary" disabled={limit.isPending}>
            {t.save}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
