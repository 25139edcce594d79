import { useInfiniteQuery } from '@tanstack/react-query';
import { getRouteApi, Link } from '@tanstack/react-router';
import { useEffect, useState } from 'react';
import type { Schemas } from '../api/client';
import { events } from '../api/queries';
import { dateTime } from '../parts/format';
import { useSettled, useTenant } from '../parts/hooks';
import { Sheet } from '../parts/overlays';
import { Fresh, Page, Skeleton } from '../parts/parts';
import { useLanguage, useTexts } from '../text/language';
import { toYaml } from './policy/yaml';

const route = getRouteApi('/t/$tenant/audit');

export function Audit() {
  const { t, language } = useLanguage();
  const a = t.audit;
  const tenant = useTenant();
  const { at, ...asked } = route.useSearch();
  const navigate = route.useNavigate();
  const list = useInfiniteQuery(events(tenant, asked));
  const [subject, setSubject] = useState(asked.subject ?? '');
  const [author, setAuthor] = useState(asked.author ?? '');
  const settled = useSettled(`${subject.trim()}\n${author.trim()}`, 300);
  useEffect(() => {
    const [about, by] = settled.split('\n');
    void navigate({
      search: (now) => ({ ...now, subject: about || undefined, author: by || undefined }),
      replace: true,
    });
  }, [settled, navigate]);
  const found = list.data?.pages.flatMap((page) => page.items);
  const chosen = found?.find((each) => String(each.position) === at);
  return (
    <Page title={t.nav.audit} sub={<span className="wide">{a.sub}</span>}>
      <section className="panel">
        <div className="filters">
          <input
            className="input"
            type="search"
            aria-label={a.subjectIs}
            placeholder={a.subjectIs}
            value={subject}
            onChange={(event) => setSubject(event.target.value)}
          />
          <input
            className="input"
            type="search"
            aria-label={a.authorIs}
            placeholder={a.authorIs}
            value={author}
            onChange={(event) => setAuthor(event.target.value)}
          />
          <select
            className="select"
            aria-label={a.kind}
            value={asked.kind ?? ''}
            onChange={(event) =>
              void navigate({ search: (now) => ({ ...now, kind: event.target.value || undefined }) })
            }
          >
            <option value="">{a.allKinds}</option>
            {Object.keys(t.events).map((kind) => (
              <option key={kind} value={kind}>
                {kind}
              </option>
            ))}
          </select>
        </div>
        <Fresh query={list}>
          {/* biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard */}
          <section className="scroll" aria-label={t.nav.audit} tabIndex={0}>
            <table className="table">
              <thead>
                <tr>
                  <th>{a.when}</th>
                  <th>{a.subject}</th>
                  <th>{a.happened}</th>
                  <th className="wide">{a.author}</th>
                  <th className="wide">{a.why}</th>
                  <th className="wide">{a.from}</th>
                </tr>
              </thead>
              <tbody>
                {!found && (
                  <tr>
                    <td colSpan={6}>
                      <Skeleton width="100%" height={320} />
                    </td>
                  </tr>
                )}
                {found?.map((each) => (
                  <tr key={each.position}>
                    <td className="num when">
                      <Link
                        data-row
                        to="/t/$tenant/audit"
                        params={{ tenant }}
                        search={(now) => ({ ...now, at: String(each.position) })}
                        resetScroll={false}
                      >
                        {dateTime(each.at / 1000, language)}
                      </Link>
                    </td>
                    <td className="mono" style={{ overflowWrap: 'anywhere' }}>
                      {each.subject}
                    </td>
                    <td>{t.events[each.kind] ?? each.kind}</td>
                    <td className="wide mono">{each.author}</td>
                    <td className="wide">
                      {each.reason || String(each.data.reason ?? '') || <span className="sub">–</span>}
                    </td>
                    <td className="wide sub">{each.address}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </section>
          {found?.length === 0 && (
            <p className="empty" style={{ margin: 0 }}>
              {a.nothing}
            </p>
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
      {chosen && (
        <Details event={chosen} close={() => void navigate({ search: (now) => ({ ...now, at: undefined }) })} />
      )}
    </Page>
  );
}

function Details({ event, close }: { event: Schemas['EventDocument']; close: () => void }) {
  const { t, language } = useLanguage();
  const a = useTexts().audit;
  const tenant = useTenant();
  const policy = event.subject.startsWith('policy/') ? event.subject.slice('policy/'.length) : undefined;
  const facts: [string, string][] = [
    [a.when, dateTime(event.at / 1000, language)],
    [a.author, event.author],
    [a.from, event.address || '–'],
    [a.why, event.reason || '–'],
    [a.position, String(event.position)],
  ];
  return (
    <Sheet title={`${event.subject}: ${t.events[event.kind] ?? event.kind}`} close={close}>
      <div className="stack">
        <dl className="facts num">
          {facts.map(([key, value]) => (
            <div key={key} style={{ display: 'contents' }}>
              <dt>{key}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
        <code className="block mono" style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>
          {toYaml(event.data)}
        </code>
        {policy && (
          <Link
            className="btn"
            style={{ justifySelf: 'start' }}
            to="/t/$tenant/policies/$policy"
            params={{ tenant, policy }}
            search={{ tab: 'history' }}
          >
            {a.restore}
          </Link>
        )}
      </div>
    </Sheet>
  );
}
