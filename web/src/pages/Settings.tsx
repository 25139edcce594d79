import { IconCircleCheck, IconCopy, IconPlus } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, body, type Schemas } from '../api/client';
import { clusters, type Role, tokens } from '../api/queries';
import { count, dateTime } from '../parts/format';
import { useRole, useTenant } from '../parts/hooks';
import { AddForm, AddInput, ListPanel } from '../parts/ListPanel';
import { Dialog } from '../parts/overlays';
import { Page, ProblemNote, ReadOnly, Skeleton } from '../parts/parts';
import { useLanguage, useTexts } from '../text/language';

const ROLES: Role[] = ['viewer', 'editor', 'operator', 'administrator'];

export function Settings() {
  const t = useTexts();
  const { role, may } = useRole();
  const admin = may('administrator');
  return (
    <Page title={t.nav.settings} sub={<span className="wide">{t.settings.sub}</span>}>
      {role && !admin && <ReadOnly role={role} needed="administrator" />}
      <div className="stack">
        <Clusters admin={admin} />
        <Tokens admin={admin} />
      </div>
    </Page>
  );
}

function Clusters({ admin }: { admin: boolean }) {
  const t = useTexts();
  const s = t.settings;
  const tenant = useTenant();
  const queries = useQueryClient();
  const list = useQuery({ ...clusters(tenant), refetchInterval: 3000 });
  const [name, setName] = useState('');
  const [joining, setJoining] = useState<string | undefined>();
  const changed = () => queries.invalidateQueries({ queryKey: ['t', tenant] });
  const add = useMutation({
    mutationFn: () =>
      api.PUT('/v1/tenants/{tenant}/clusters/{cluster}', { params: { path: { tenant, cluster: name } } }),
    onSuccess: () => {
      setJoining(name);
      setName('');
      return changed();
    },
  });
  return (
    <>
      <ListPanel
        title={s.clusters}
        query={list}
        nothing={s.clustersNone}
        row={(each) => (
          <tr key={each.name}>
            <td>
              <b>{each.name}</b>
            </td>
            <td>{t.fleet.agents(each.agents, count(each.agents))}</td>
            <td className="r">
              {admin && (
                <button
                  type="button"
                  data-row
                  className="btn small"
                  onClick={() => setJoining(each.name)}
                  aria-label={`${s.join}: ${each.name}`}
                >
                  {s.join}
                </button>
              )}
            </td>
          </tr>
        )}
        add={
          admin && (
            <AddForm label={s.add} pending={add.isPending} add={() => add.mutate()}>
              <AddInput label={s.name} value={name} set={setName} />
            </AddForm>
          )
        }
        error={add.error}
      />
      {joining && <Join cluster={joining} close={() => setJoining(undefined)} />}
    </>
  );
}

/** The command for a node, and whether its agent has come. */
function Join({ cluster, close }: { cluster: string; close: () => void }) {
  const t = useTexts();
  const s = t.settings;
  const tenant = useTenant();
  const path = { tenant, cluster };
  const made = useQuery({
    // A new one for each time that it is asked for.
    queryKey: ['join', tenant, cluster],
    gcTime: 0,
    staleTime: Number.POSITIVE_INFINITY,
    retry: false,
    queryFn: async () => {
      const token = (await body(
        api.POST('/v1/tenants/{tenant}/clusters/{cluster}/join-tokens', {
          params: { path },
          body: { expires_in: 3600, node: '' },
        }),
      )) as Schemas['JoinTokenDocument'];
      return { token, since: Math.floor(Date.now() / 1000) - 1 };
    },
  });
  const newest = useQuery({
    queryKey: ['t', tenant, 'agents', 'newest', cluster],
    enabled: Boolean(made.data),
    refetchInterval: 1000,
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/agents', {
          params: { path: { tenant }, query: { cluster, sort: '-joined', limit: 1 } },
        }),
      ),
  });
  const first = newest.data?.items[0];
  const arrived = first && made.data && first.joined >= made.data.since ? first.node : undefined;
  const place = made.data?.token.control_plane ?? '';
  const where = place.startsWith(':') ? window.location.hostname + place : place;
  const command = `podlane agent --control-plane ${where} --join-token ${made.data?.token.token ?? ''}`;
  return (
    <Dialog title={s.joinTitle(cluster)} close={close} size={640}>
      <div className="stack">
        <p style={{ margin: 0 }}>{s.joinWhy}</p>
        {made.isError && <ProblemNote error={made.error} />}
        {made.data ? <Secret text={command} /> : <Skeleton width="100%" height={54} />}
        <p className="sub" style={{ margin: 0 }}>
          {s.joinOnce}
        </p>
        <div className={`note ${arrived ? 'good' : 'info'}`} role="status">
          {arrived && <IconCircleCheck size={18} />}
          <p>{arrived ? s.arrived(arrived) : s.waiting}</p>
        </div>
      </div>
    </Dialog>
  );
}

function Secret({ text }: { text: string }) {
  const t = useTexts();
  const [copied, setCopied] = useState(false);
  return (
    <div className="secret">
      <code className="block mono">{text}</code>
      <button
        type="button"
        className="btn small"
        onClick={async () => {
          await navigator.clipboard.writeText(text);
          setCopied(true);
        }}
      >
        <IconCopy size={14} />
        {copied ? t.copied : t.copy}
      </button>
    </div>
  );
}

function Tokens({ admin }: { admin: boolean }) {
  const { t, language } = useLanguage();
  const s = t.settings;
  const tenant = useTenant();
  const queries = useQueryClient();
  const list = useQuery(tokens(tenant));
  const [issuing, setIssuing] = useState(false);
  const revoke = useMutation({
    mutationFn: (token: string) =>
      api.DELETE('/v1/tenants/{tenant}/tokens/{token}', { params: { path: { tenant, token } } }),
    onSuccess: () => queries.invalidateQueries({ queryKey: ['t', tenant, 'tokens'] }),
  });
  return (
    <>
      <ListPanel
        title={s.tokens}
        query={list}
        nothing={s.tokensNone}
        action={
          admin && (
            <button type="button" className="btn small right" onClick={() => setIssuing(true)}>
              <IconPlus size={14} />
              {s.issue}
            </button>
          )
        }
        head={
          <>
            <th>{s.title}</th>
            <th className="wide">{s.id}</th>
            <th>{t.tenantsPage.role}</th>
            <th className="wide">{s.expires}</th>
            <th>
              <span className="hidden">{s.revoke}</span>
            </th>
          </>
        }
        row={(each) => (
          <tr key={each.id}>
            <td>{each.title || '–'}</td>
            <td className="mono wide">{each.id}</td>
            <td>{t.roles[each.role]}</td>
            <td className="wide">{each.expires_at ? dateTime(each.expires_at, language) : t.never}</td>
            <td className="r">
              {admin && (
                <button
                  type="button"
                  className="btn small danger"
                  title={s.revokeAsk}
                  onClick={() => revoke.mutate(each.id)}
                  aria-label={`${s.revoke}: ${each.title || each.id}`}
                >
                  {s.revoke}
                </button>
              )}
            </td>
          </tr>
        )}
        error={revoke.error}
      />
      {issuing && <Issue close={() => setIssuing(false)} />}
    </>
  );
}

function Issue({ close }: { close: () => void }) {
  const t = useTexts();
  const s = t.settings;
  const tenant = useTenant();
  const queries = useQueryClient();
  const [title, setTitle] = useState('');
  const [role, setRole] = useState<Role>('viewer');
  const [days, setDays] = useState('90');
  const issue = useMutation({
    mutationFn: async () =>
      (await body(
        api.POST('/v1/tenants/{tenant}/tokens', {
          params: { path: { tenant } },
          body: { title, role, expires_in: Math.round(Number(days) * 86400) || null },
        }),
      )) as Schemas['TokenDocument'],
    onSuccess: () => queries.invalidateQueries({ queryKey: ['t', tenant, 'tokens'] }),
  });
  return (
    <Dialog title={s.issue} close={close}>
      {issue.data?.token ? (
        <div className="stack">
          <p style={{ margin: 0 }}>{s.issued}</p>
          <Secret text={issue.data.token} />
        </div>
      ) : (
        <form
          className="stack"
          onSubmit={(event) => {
            event.preventDefault();
            issue.mutate();
          }}
        >
          <div className="field">
            <label htmlFor="token-title">{s.title}</label>
            <input
              id="token-title"
              data-autofocus
              className="input"
              value={title}
              onChange={(event) => setTitle(event.target.value)}
            />
          </div>
          <div className="form-grid">
            <div className="field">
              <label htmlFor="token-role">{t.tenantsPage.role}</label>
              <select
                id="token-role"
                className="select"
                value={role}
                onChange={(event) => setRole(event.target.value as Role)}
              >
                {ROLES.map((each) => (
                  <option key={each} value={each}>
                    {t.roles[each]}
                  </option>
                ))}
              </select>
            </div>
            <div className="field">
              <label htmlFor="token-days">{s.days}</label>
              <input
                id="token-days"
                className="input"
                inputMode="numeric"
                value={days}
                onChange={(event) => setDays(event.target.value)}
              />
            </div>
          </div>
          {issue.isError && <ProblemNote error={issue.error} />}
          <div>
            <button type="submit" className="btn primary" disabled={issue.isPending}>
              {s.issue}
            </button>
          </div>
        </form>
      )}
    </Dialog>
  );
}
