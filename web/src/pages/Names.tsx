/** Names that connections had in the last hour, and in which lane they were: what is in none is to be sorted. */
import { IconSearch } from '@tabler/icons-react';
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import { clusters, names } from '../api/queries';
import { count, duration } from '../parts/format';
import { useNow, useSettled, useTenant } from '../parts/hooks';
import { Fresh, Page, Skeleton } from '../parts/parts';
import { useTexts } from '../text/language';
import { nameId } from './policy/names';

const route = getRouteApi('/t/$tenant/names');

export function Names() {
  const t = useTexts();
  const n = t.names;
  const tenant = useTenant();
  const asked = route.useSearch();
  const navigate = route.useNavigate();
  const now = useNow(5000) / 1000;
  const [words, setWords] = useState(asked.name ?? '');
  const settled = useSettled(words.trim(), 250);
  useEffect(() => {
    void navigate({ search: (before) => ({ ...before, name: settled || undefined }), replace: true });
  }, [settled, navigate]);
  const places = useQuery(clusters(tenant));
  const { decided, order = '-connections', ...rest } = asked;
  const list = useInfiniteQuery(
    names(tenant, {
      ...rest,
      sort: order,
      decided: decided === 'none' ? ['default'] : decided === 'port' ? ['port'] : decided === 'name' ? ['name'] : [],
    }),
  );
  const found = list.data?.pages.flatMap((page) => page.items);
  const look = (wanted: typeof decided, says: string) => (
    <button
      type="button"
      aria-pressed={decided === wanted}
      onClick={() => void navigate({ search: (before) => ({ ...before, decided: wanted }) })}
    >
      {says}
    </button>
  );
  return (
    <Page
      title={n.title}
      sub={n.sub}
      crumbs={
        <Link to="/t/$tenant/policies" params={{ tenant }}>
          {t.policies.title}
        </Link>
      }
    >
      <section className="panel" aria-label={n.title}>
        <div className="filters">
          <IconSearch size={16} aria-hidden />
          <input
            className="input"
            type="search"
            aria-label={n.find}
            placeholder={n.find}
            value={words}
            onChange={(event) => setWords(event.target.value)}
          />
          <input
            className="input"
            type="search"
            aria-label={n.namespace}
            placeholder={n.namespace}
            defaultValue={asked.namespace ?? ''}
            onChange={(event) => {
              const namespace = event.target.value.trim() || undefined;
              void navigate({ search: (before) => ({ ...before, namespace }), replace: true });
            }}
          />
          {(places.data?.items.length ?? 0) > 1 && (
            <select
              className="select"
              aria-label={n.cluster}
              value={asked.cluster ?? ''}
              onChange={(event) => {
                const cluster = event.target.value || undefined;
                void navigate({ search: (before) => ({ ...before, cluster }) });
              }}
            >
              <option value="">{n.everyCluster}</option>
              {places.data?.items.map((each) => (
                <option key={each.name} value={each.name}>
                  {each.name}
                </option>
              ))}
            </select>
          )}
          <div className="segments">
            {look(undefined, t.all)}
            {look('none', n.noLane)}
            {look('port', n.onlyPort)}
            {look('name', n.onlyName)}
          </div>
          <select
            className="select"
            aria-label={n.order}
            value={order}
            onChange={(event) => {
              const value = event.target.value as typeof order;
              void navigate({ search: (before) => ({ ...before, order: value }) });
            }}
          >
            <option value="-connections">{n.mostFirst}</option>
            <option value="-last_seen">{n.lastFirst}</option>
            <option value="name">{n.byName}</option>
          </select>
        </div>
        <Fresh query={list}>
          {!found && (
            <div className="pad">
              <Skeleton width="100%" height={260} />
            </div>
          )}
          {found?.length === 0 && (
            <div className="empty">
              <h2>{n.nothing}</h2>
              <p>{n.nothingRemedy}</p>
            </div>
          )}
          {found && found.length > 0 && (
            // biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard
            <section className="scroll" aria-label={n.table} tabIndex={0}>
              <table className="table">
                <thead>
                  <tr>
                    <th>{n.name}</th>
                    <th>{n.lane}</th>
                    <th className="num r">{n.connections}</th>
                    <th className="wide">{n.where}</th>
                    <th className="wide">{n.policy}</th>
                    <th className="wide num r">{n.seen}</th>
                  </tr>
                </thead>
                <tbody>
                  {found.map((each) => (
                    <tr key={nameId(each)}>
                      <td>
                        <span className="mono" style={{ overflowWrap: 'anywhere' }}>
                          {each.name}
                        </span>
                        <div className="sub">
                          {t.editor.criteria[each.kind]} · {t.editor.criteria.port} {each.port}
                          {each.direction === 'inbound' && ` · ${n.inbound}`}
                        </div>
                      </td>
                      <td>
                        <span
                          className={`pill ${each.decided === 'default' ? 'warn' : each.decided === 'name' ? 'ok' : ''}`}
                        >
                          {each.decided === 'default'
                            ? n.noLane
                            : each.decided === 'name'
                              ? each.lane
                              : n.byPort(each.lane)}
                        </span>
                      </td>
                      <td className="num r">{count(each.connections)}</td>
                      <td className="wide">
                        <span className="mono">{each.workload || each.namespace}</span>
                        <div className="sub">{each.cluster}</div>
                      </td>
                      <td className="wide">
                        {each.policy ? (
                          <Link
                            data-row
                            to="/t/$tenant/policies/$policy"
                            params={{ tenant, policy: each.policy }}
                            aria-label={n.sortIn(each.name, each.policy)}
                          >
                            {each.policy}
                          </Link>
                        ) : (
                          <span className="sub">{t.workloads.own}</span>
                        )}
                      </td>
                      <td className="wide num r">{duration(now - each.last_seen)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </section>
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
    </Page>
  );
}
