import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import type { Schemas } from '../../api/client';
import { eventsOf, revisions } from '../../api/queries';
import { dateTime } from '../../parts/format';
import { useTenant } from '../../parts/hooks';
import { Fresh, Skeleton } from '../../parts/parts';
import { useLanguage } from '../../text/language';
import { Diff, textOf } from './Diff';
import type { PolicyDoc } from './model';
import type { Written } from './useEditor';

interface HistoryProps {
  found: Schemas['PolicyDocument'];
  current: Written;
  restore: ((written: Written) => void) | undefined;
}

/** All revisions that ever were: who published them, why, and how they differ from what is in force. */
export function History({ found, current, restore }: HistoryProps) {
  const { t, language } = useLanguage();
  const h = t.editor.history;
  const tenant = useTenant();
  const list = useQuery({ ...revisions(tenant, found.name), staleTime: 0 });
  const events = useQuery({ ...eventsOf(tenant, `policy/${found.name}`), staleTime: 0 });
  const [chosen, setChosen] = useState<number | undefined>();
  const published = (revision: number) =>
    events.data?.items.find((each) => each.kind === 'PolicyPublished' && each.data.revision === revision);
  const shown = list.data?.items.find((each) => each.revision === chosen) ?? list.data?.items[0];
  const asWritten = (each: Schemas['ContentDocument']): Written => ({
    doc: each.document as PolicyDoc,
    selector: each.selector,
    nodes: each.nodes,
  });
  const against = found.in_force ? asWritten(found.in_force) : current;
  return (
    <Fresh query={list}>
      {list.data?.items.length === 0 && <p className="sub">{h.none}</p>}
      {!list.data && <Skeleton width="100%" height={200} />}
      {shown && (
        <div className="two history">
          <section className="panel" aria-label={h.against(shown.revision)}>
            <div className="panel-head">
              <h2>{h.against(shown.revision)}</h2>
              {restore && (
                <button
                  type="button"
                  className="btn small right"
                  title={h.restoreWhy}
                  onClick={() => restore(asWritten(shown))}
                >
                  {h.restore}
                </button>
              )}
            </div>
            <Diff before={textOf(against)} after={textOf(asWritten(shown))} nothing={h.same} />
          </section>
          <section className="panel" aria-label={t.editor.tabs.history}>
            {list.data?.items.map((each) => {
              const event = published(each.revision);
              return (
                <button
                  key={each.revision}
                  type="button"
                  data-row
                  className="history-row"
                  aria-pressed={each.revision === shown.revision}
                  onClick={() => setChosen(each.revision)}
                >
                  <b className="num">r{each.revision}</b>
                  <span className="grow cut">
                    {event?.reason || '–'}
                    <span className="sub cut" style={{ display: 'block' }}>
                      {event && h.by(event.author, dateTime(event.at / 1000, language))}
                    </span>
                  </span>
                  {found.in_force && each.revision === found.revision && <span className="pill ok">{h.inForce}</span>}
                </button>
              );
            })}
          </section>
        </div>
      )}
    </Fresh>
  );
}
