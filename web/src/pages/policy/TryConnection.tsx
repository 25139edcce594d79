import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { type ComponentProps, useEffect, useId, useState } from 'react';
import { api, body, Problem, type Schemas } from '../../api/client';
import { useSettled } from '../../parts/hooks';
import { ProblemNote } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { laneColor } from './Bars';
import { type PolicyDoc, wordsOf } from './model';

type Protocol = 'tcp' | 'udp' | 'icmp';
export type Decided = Schemas['DecisionDocument'];

interface Form {
  port: string;
  protocol: Protocol;
  name: string;
  plain: boolean;
  alpn: string;
  address: string;
  inbound: boolean;
}

const EMPTY: Form = { port: '443', protocol: 'tcp', name: '', plain: false, alpn: '', address: '', inbound: false };

/** Where one connection would go: the control plane decides it, by the table that agents route with. */
export function TryConnection({ doc, show }: { doc: PolicyDoc; show: (decided: Decided | undefined) => void }) {
  const t = useTexts();
  const e = t.editor;
  const w = e.trial;
  const [form, setForm] = useState<Form | undefined>();
  const asked = useSettled({ doc, form }, 300);
  const query = useQuery({
    queryKey: ['try-connection', JSON.stringify(asked)],
    enabled: asked.form !== undefined && form !== undefined,
    placeholderData: keepPreviousData,
    staleTime: Number.POSITIVE_INFINITY,
    retry: false,
    queryFn: () =>
      body(
        api.POST('/v1/try-connection', {
          body: { document: asked.doc as Record<string, unknown>, connection: wishOf(asked.form ?? EMPTY) },
        }),
      ) as Promise<Decided>,
  });
  const found = form && !query.isError ? query.data : undefined;
  useEffect(() => {
    show(found);
    return () => show(undefined);
  }, [found, show]);
  const shown = form ?? EMPTY;
  const change = (to: Partial<Form>) => setForm({ ...shown, ...to });
  // What is wrong with the policy is told beside its lanes.
  const wrong = query.error instanceof Problem && query.error.title === 'The policy is wrong';
  return (
    <section className="panel" aria-label={w.title}>
      <div className="panel-head">
        <h2>{w.title}</h2>
        {form && (
          <button type="button" className="btn small right" onClick={() => setForm(undefined)}>
            {w.clear}
          </button>
        )}
      </div>
      <form className="trial" onSubmit={(event) => event.preventDefault()}>
        <div className="field">
          <label htmlFor="try-protocol">{e.criteria.protocol}</label>
          <select
            id="try-protocol"
            className="select"
            value={shown.protocol}
            onChange={(event) => change({ protocol: event.target.value as Protocol })}
          >
            <option value="tcp">TCP</option>
            <option value="udp">{w.udp}</option>
            <option value="icmp">ICMP</option>
          </select>
        </div>
        <Written
          label={e.criteria.port}
          className="input num"
          inputMode="numeric"
          disabled={shown.protocol === 'icmp'}
          value={shown.port}
          write={(port) => change({ port })}
        />
        <div className="field whole">
          <label htmlFor="try-name">{shown.plain ? e.criteria.host : e.criteria.sni}</label>
          <div className="with-switch">
            <input
              id="try-name"
              className="input mono"
              placeholder="api.example.com"
              disabled={shown.protocol === 'icmp'}
              value={shown.name}
              onChange={(event) => change({ name: event.target.value })}
            />
            <select
              className="select"
              aria-label={w.carried}
              disabled={shown.protocol !== 'tcp'}
              value={shown.plain && shown.protocol === 'tcp' ? 'http' : 'tls'}
              onChange={(event) => change({ plain: event.target.value === 'http' })}
            >
              <option value="tls">{shown.protocol === 'udp' ? 'QUIC' : 'TLS'}</option>
              <option value="http">HTTP</option>
            </select>
          </div>
        </div>
        <Written
          label={shown.inbound ? w.client : w.address}
          placeholder={w.anywhere}
          value={shown.address}
          write={(address) => change({ address })}
        />
        <Written
          label={e.criteria.alpn}
          placeholder="h2"
          disabled={shown.plain || shown.protocol === 'icmp'}
          value={shown.alpn}
          write={(alpn) => change({ alpn })}
        />
        <label className="whole check">
          <input
            type="checkbox"
            checked={shown.inbound}
            onChange={(event) => change({ inbound: event.target.checked })}
          />
          {w.inbound}
        </label>
      </form>
      <div className="trial-answer" role="status">
        {!form && <p className="sub">{w.hint}</p>}
        {form && wrong && <p className="sub">{w.notYet}</p>}
        {form && query.isError && !wrong && <ProblemNote error={query.error} />}
        {found && <Answer found={found} port={shown.port} />}
      </div>
    </section>
  );
}

/** A text of the form, under its label. */
function Written({
  label,
  write,
  ...input
}: { label: string | undefined; write: (text: string) => void } & ComponentProps<'input'>) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input id={id} className="input mono" {...input} onChange={(event) => write(event.target.value)} />
    </div>
  );
}

function Answer({ found, port }: { found: Decided; port: string }) {
  const e = useTexts().editor;
  const w = e.trial;
  return (
    <>
      <p className="lane-name">
        <i className="dot" style={{ background: laneColor(found.lane ?? -1) }} />
        <b>{found.name}</b>
        <span className="sub">
          {found.lane === null || found.match === null ? w.nothing : w.place(found.lane + 1, found.match + 1)}
        </span>
      </p>
      {Object.keys(found.held).length > 0 && (
        <p className="chips">
          {Object.entries(found.held).map(([key, values]) => (
            <span key={key} className="chip decided">
              <b>{e.criteria[key] ?? key}</b>
              <span className="mono">{wordsOf(values)}</span>
            </span>
          ))}
        </p>
      )}
      <p className="sub">{found.reads_names ? w.reads : w.packets}</p>
      {found.silenced && <p className="sub warn-text">{w.silenced(port)}</p>}
      {found.refused && <p className="sub warn-text">{w.refused}</p>}
    </>
  );
}

/** The question in the words of the API. What is written is the server's to refuse. */
function wishOf(form: Form): Schemas['ConnectionWish'] {
  const { protocol, inbound } = form;
  const named = protocol === 'icmp' ? '' : form.name.trim();
  const plain = form.plain && protocol === 'tcp';
  const address = form.address.trim();
  return {
    port: protocol === 'icmp' ? 0 : Number(form.port),
    protocol,
    sni: plain ? '' : named,
    host: plain ? named : '',
    alpn: plain || protocol === 'icmp' ? [] : form.alpn.split(/[\s,]+/).filter(Boolean),
    direction: inbound ? 'inbound' : 'outbound',
    address: inbound ? '' : address,
    source: inbound ? address : '',
  };
}
