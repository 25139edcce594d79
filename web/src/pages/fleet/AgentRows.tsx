import type { InfiniteData, UseInfiniteQueryResult } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { useWindowVirtualizer } from '@tanstack/react-virtual';
import { useEffect, useLayoutEffect, useRef, useState } from 'react';
import type { Schemas } from '../../api/client';
import { count, duration } from '../../parts/format';
import { useNow, useTenant } from '../../parts/hooks';
import { Skeleton, StatePill } from '../../parts/parts';
import { useTexts } from '../../text/language';

type Agent = Schemas['AgentStateDocument'];
const HEIGHT = 44;

/** The agents that a filter leaves: only what is seen is drawn, and further pages are read when they come near. */
export function AgentRows({
  list,
  chosen,
}: {
  list: UseInfiniteQueryResult<InfiniteData<Schemas['Page_AgentStateDocument_']>>;
  chosen: string | undefined;
}) {
  const t = useTexts();
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  useLayoutEffect(() => {
    if (box.current) setTop(box.current.getBoundingClientRect().top + window.scrollY);
  }, []);
  const rows = list.data?.pages.flatMap((page) => page.items) ?? [];
  const virtual = useWindowVirtualizer({
    count: rows.length + (list.hasNextPage ? 1 : 0),
    estimateSize: () => HEIGHT,
    overscan: 12,
    scrollMargin: top,
  });
  const seen = virtual.getVirtualItems();
  const last = seen[seen.length - 1]?.index ?? 0;
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  useEffect(() => {
    if (hasNextPage && !isFetchingNextPage && last >= rows.length - 40) void fetchNextPage();
  }, [hasNextPage, isFetchingNextPage, fetchNextPage, last, rows.length]);
  if (list.data && rows.length === 0) {
    return (
      <p className="empty" style={{ margin: 0 }}>
        {t.fleet.nothing}
      </p>
    );
  }
  return (
    <div
      className="rows agents"
      role="table"
      aria-label={t.nav.fleet}
      aria-rowcount={list.hasNextPage ? -1 : rows.length + 1}
    >
      <div role="rowgroup">
        <div className="row header" role="row">
          <span role="columnheader">{t.fleet.node}</span>
          <span role="columnheader">{t.fleet.cluster}</span>
          <span role="columnheader">{t.fleet.state}</span>
          <span role="columnheader" className="r">
            {t.fleet.revision}
          </span>
          <span role="columnheader">{t.fleet.workloads}</span>
          <span role="columnheader">{t.fleet.version}</span>
          <span role="columnheader" className="r">
            {t.fleet.since}
          </span>
        </div>
      </div>
      <div
        ref={box}
        role="rowgroup"
        style={{ height: list.data ? virtual.getTotalSize() : HEIGHT * 8, position: 'relative' }}
      >
        {!list.data && [0, 1, 2, 3, 4, 5, 6, 7].map((at) => <Waiting key={at} at={at} />)}
        {seen.map((item) => {
          const agent = rows[item.index];
          return (
            <div
              key={item.key}
              className={`row ${agent && `${agent.cluster}/${agent.node}` === chosen ? 'chosen' : ''}`}
              role="row"
              aria-rowindex={item.index + 2}
              style={{ position: 'absolute', top: 0, height: HEIGHT, transform: `translateY(${item.start - top}px)` }}
            >
              {agent ? <Cells agent={agent} /> : <WaitingCell />}
            </div>
          );
        })}
      </div>
    </div>
  );
}

function Cells({ agent }: { agent: Agent }) {
  const t = useTexts();
  const tenant = useTenant();
  const now = useNow(5000);
  return (
    <>
      <span role="cell" className="cut">
        <Link
          data-row
          to="/t/$tenant/fleet"
          params={{ tenant }}
          search={(before) => ({ ...before, agent: `${agent.cluster}/${agent.node}` })}
          resetScroll={false}
        >
          {agent.node}
        </Link>
        <span className="sub narrow"> {agent.cluster}</span>
      </span>
      <span role="cell" className="cut wide">
        {agent.cluster}
      </span>
      <span role="cell">
        <StatePill state={agent.state} />
      </span>
      <span role="cell" className="num r wide">
        {agent.revision || <span className="sub">–</span>}
      </span>
      <span role="cell" className="num cut wide">
        {count(agent.programmed)}
        {agent.failed > 0 && <span style={{ color: 'var(--bad)' }}> · {t.fleet.withoutIt(count(agent.failed))}</span>}
        {agent.waiting > 0 && <span className="sub"> · {t.fleet.waiting(count(agent.waiting))}</span>}
      </span>
      <span role="cell" className="cut wide sub">
        {agent.version || t.fleet.notKnown}
      </span>
      <span role="cell" className="num r wide sub">
        {agent.since ? duration(now / 1000 - agent.since) : '–'}
      </span>
    </>
  );
}

function Waiting({ at }: { at: number }) {
  return (
    <div className="row" style={{ position: 'absolute', top: at * HEIGHT, height: HEIGHT }}>
      <WaitingCell />
    </div>
  );
}

function WaitingCell() {
  return (
    <>
      <Skeleton width="70%" />
      <Skeleton width="60%" />
      <Skeleton width={80} height={20} />
    </>
  );
}
