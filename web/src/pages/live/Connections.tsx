import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { connections } from '../../api/queries';
import { bytes, count, duration } from '../../parts/format';
import { useTenant } from '../../parts/hooks';
import { Fresh, Skeleton } from '../../parts/parts';
import { useTexts } from '../../text/language';

const ORDERS = ['largest', 'newest'] as const;

/** Connections of a Pod, as its agent has them: which name or address each goes to, in which lane, and what it carried. */
export function Connections({
  cluster,
  node,
  pod,
  color,
}: {
  cluster: string;
  node: string;
  pod: string;
  color: (lane: string) => string;
}) {
  const t = useTexts();
  const l = t.live;
  const tenant = useTenant();
  const [order, setOrder] = useState<(typeof ORDERS)[number]>('largest');
  const list = useQuery(connections(tenant, { cluster, node, workload: pod, order }));
  const found = list.data?.connections;
  return (
    <section className="panel" aria-label={l.connections}>
      <div className="panel-head">
        <h2>{l.connections}</h2>
        {list.data && <span className="sub">{l.alive(count(list.data.active))}</span>}
        <div className="segments right" role="group" aria-label={l.connectionsOrder}>
          {ORDERS.map((each) => (
            <button key={each} type="button" aria-pressed={order === each} onClick={() => setOrder(each)}>
              {l[each]}
            </button>
          ))}
        </div>
      </div>
      <Fresh query={list}>
        {!found && (
          <div className="pad">
            <Skeleton width="100%" height={60} />
          </div>
        )}
        {found?.length === 0 && <p className="sub diff-none">{l.noConnections}</p>}
        {found && found.length > 0 && (
          <table className="table num">
            <thead>
              <tr>
                <th>{l.lane}</th>
                <th>{l.peer}</th>
                <th className="r">{l.up}</th>
                <th className="r">{l.down}</th>
                <th className="r wide">{l.age}</th>
              </tr>
            </thead>
            <tbody>
              {found.map((each) => {
                // The other end: of what a client has opened, the client.
                const peer = each.direction === 'inbound' ? each.client : each.destination;
                const address = `${peer.address.includes(':') ? `[${peer.address}]` : peer.address}:${peer.port}`;
                return (
                  <tr
                    key={`${each.client.address} ${each.client.port} ${each.destination.address} ${each.destination.port}`}
                  >
                    <td>
                      {each.class ? (
                        <span className="lane-name">
                          <i className="dot" style={{ background: color(each.class) }} />
                          {each.class}
                        </span>
                      ) : (
                        <span className="sub">{l.undecided}</span>
                      )}
                    </td>
                    <td>
                      {each.name && <b>{each.name} </b>}
                      <span className="mono sub">{address}</span>
                    </td>
                    <td className="r">{each.bytes_up === null ? '–' : bytes(each.bytes_up)}</td>
                    <td className="r">{each.bytes_down === null ? '–' : bytes(each.bytes_down)}</td>
                    <td className="r wide">{each.age_seconds === null ? '–' : duration(each.age_seconds)}</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        )}
      </Fresh>
    </section>
  );
}
