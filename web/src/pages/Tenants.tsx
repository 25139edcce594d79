import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { api } from '../api/client';
import { grants, type Role, session, tenants } from '../api/queries';
import { useRole, useTenant } from '../parts/hooks';
import { Fresh, Page, ProblemNote, ReadOnly, Skeleton } from '../parts/parts';
import { useTexts } from '../text/language';

const ROLES: Role[] = ['viewer', 'editor', 'operator', 'administrator'];

export function Tenants() {
  const t = useTexts();
  const p = t.tenantsPage;
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
            <dl className="facts" style={{ padding: 14 }}>
              {ROLES.map((each) => (
                <div key={each} style={{ display: 'contents' }}>
                  <dt>{t.roles[each]}</dt>
                  <dd>{p.roleMeans[each]}</dd>
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
      <dl className="facts" style={{ padding: 14 }}>
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
  const error = grant.error ?? take.error;
  return (
    <section className="panel" aria-label={p.grants}>
      <div className="panel-head">
        <h2>{p.grants}</h2>
      </div>
      <Fresh query={list}>
        {!list.data && (
          <div style={{ padding: 14 }}>
            <Skeleton width="100%" height={60} />
          </div>
        )}
        {list.data?.items.length === 0 && <p className="sub diff-none">{p.grantsNone}</p>}
        {list.data && list.data.items.length > 0 && (
          <table className="table">
            <thead>
              <tr>
                <th>{p.group}</th>
                <th>{p.role}</th>
                {admin && (
                  <th>
                    <span className="hidden">{p.take}</span>
                  </th>
                )}
              </tr>
            </thead>
            <tbody>
              {list.data.items.map((each) => (
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
              ))}
            </tbody>
          </table>
        )}
      </Fresh>
      {admin && (
        <form
          className="filters"
          style={{ borderTop: '1px solid var(--line2)', borderBottom: 0 }}
          onSubmit={(event) => {
            event.preventDefault();
            grant.mutate();
          }}
        >
          <input
            className="input"
            aria-label={p.group}
            placeholder={p.group}
            required
            value={group}
            onChange={(event) => setGroup(event.target.value)}
          />
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
          <button type="submit" className="btn" disabled={grant.isPending}>
            {p.grant}
          </button>
        </form>
      )}
      {error && (
        <div style={{ padding: 14 }}>
          <ProblemNote error={error} />
        </div>
      )}
    </section>
  );
}

function TenantList({ platform }: { platform: boolean }) {
  const t = useTexts();
  const p = t.tenantsPage;
  const queries = useQueryClient();
  const list = useQuery(tenants);
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
    <section className="panel" aria-label={p.all}>
      <div className="panel-head">
        <h2>{p.all}</h2>
      </div>
      <Fresh query={list}>
        <table className="table">
          <tbody>
            {list.data?.items.map((each) => (
              <tr key={each.name}>
                <td>
                  <Link data-row to="/t/$tenant" params={{ tenant: each.name }}>
                    {each.name}
                  </Link>
                </td>
                <td>{each.name === 'platform' ? p.platform : each.title}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Fresh>
      {platform && (
        <form
          className="filters"
          style={{ borderTop: '1px solid var(--line2)', borderBottom: 0 }}
          onSubmit={(event) => {
            event.preventDefault();
            make.mutate();
          }}
        >
          <input
            className="input"
            aria-label={t.policies.name}
            placeholder={t.policies.name}
            required
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
          <input
            className="input"
            aria-label={p.makeTitle}
            placeholder={p.makeTitle}
            value={title}
            onChange={(event) => setTitle(event.target.value)}
          />
          <button type="submit" className="btn" disabled={make.isPending}>
            {p.make}
          </button>
        </form>
      )}
      {make.isError && (
        <div style={{ padding: 14 }}>
          <ProblemNote error={make.error} />
        </div>
      )}
    </section>
  );
}
