import { IconPlus } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, body } from '../../api/client';
import { alertChannels } from '../../api/queries';
import { Field } from '../../parts/Field';
import { useRole, useTenant } from '../../parts/hooks';
import { Dialog } from '../../parts/overlays';
import { Fresh, ProblemNote, ReadOnly, Skeleton } from '../../parts/parts';
import { useKept } from '../../parts/useKept';
import { useTexts } from '../../text/language';
import { ConflictDialog } from '../policy/ConflictDialog';
import { toYaml } from '../policy/yaml';
import { type Channel, type ChannelWish, channelOf, NEW_CHANNEL, placeOf, trimmed } from './model';

export function Channels() {
  const t = useTexts();
  const c = t.alerts.channel;
  const tenant = useTenant();
  const { role, may } = useRole();
  const list = useQuery(alertChannels(tenant));
  const [editing, setEditing] = useState<{ found: Channel | undefined } | undefined>();
  const found = list.data?.items;
  return (
    <>
      {role && !may('administrator') && <ReadOnly role={role} needed="administrator" />}
      <section className="panel" aria-label={t.alerts.tabs.channels}>
        <div className="panel-head">
          <h2>{t.alerts.tabs.channels}</h2>
          {may('administrator') && (
            <button type="button" className="btn small right" onClick={() => setEditing({ found: undefined })}>
              <IconPlus size={14} aria-hidden />
              {c.make}
            </button>
          )}
        </div>
        <Fresh query={list}>
          {!found && (
            <div className="pad">
              <Skeleton width="100%" height={80} />
            </div>
          )}
          {found?.length === 0 && (
            <div className="empty">
              <h2>{c.none}</h2>
              <p>{c.noneRemedy}</p>
            </div>
          )}
          {found?.map((each) => (
            <ChannelRow key={each.name} channel={each} edit={() => setEditing({ found: each })} />
          ))}
        </Fresh>
      </section>
      {editing && <ChannelDialog found={editing.found} close={() => setEditing(undefined)} />}
    </>
  );
}

function ChannelRow({ channel, edit }: { channel: Channel; edit: () => void }) {
  const t = useTexts();
  const c = t.alerts.channel;
  const tenant = useTenant();
  const { may } = useRole();
  const test = useMutation({
    mutationFn: () =>
      body(
        api.POST('/v1/tenants/{tenant}/alerts/channels/{channel}/test', {
          params: { path: { tenant, channel: channel.name } },
        }),
      ),
  });
  return (
    <div className="gate">
      <div className="gate-line" style={{ flexWrap: 'wrap' }}>
        <b>{channel.name}</b>
        <span className="pill">{c.kinds[channel.kind]}</span>
        <span className="grow mono" style={{ overflowWrap: 'anywhere', flexBasis: 180 }}>
          {placeOf(channel)}
        </span>
        {may('operator') && (
          <button
            type="button"
            data-row
            className="btn small"
            disabled={test.isPending}
            onClick={() => test.mutate()}
            aria-label={`${c.test}: ${channel.name}`}
          >
            {test.isPending ? c.testing : c.test}
          </button>
        )}
        {may('administrator') && (
          <button type="button" className="btn small" onClick={edit} aria-label={`${c.edit}: ${channel.name}`}>
            {c.edit}
          </button>
        )}
      </div>
      {channel.trouble && (
        <div className="note warn" style={{ marginTop: 8 }}>
          <p>
            <b>{c.trouble}.</b> {channel.trouble}
          </p>
        </div>
      )}
      {test.data && (
        <div className={`note ${test.data.sent ? 'good' : 'bad'}`} role="status" style={{ marginTop: 8 }}>
          <p>
            <b>{test.data.sent ? c.sent : c.notSent}.</b> {test.data.says}
          </p>
        </div>
      )}
      {test.isError && (
        <div style={{ marginTop: 8 }}>
          <ProblemNote error={test.error} />
        </div>
      )}
    </div>
  );
}

const textOf = (channel: ChannelWish) => toYaml(trimmed(channel)).trimEnd();

function ChannelDialog({ found, close }: { found: Channel | undefined; close: () => void }) {
  const t = useTexts();
  const c = t.alerts.channel;
  const tenant = useTenant();
  const queries = useQueryClient();
  const [name, setName] = useState(found?.name ?? '');
  const [form, setForm] = useState<ChannelWish>(found ? channelOf(found) : NEW_CHANNEL);
  const [to, setTo] = useState(form.to.join(', '));
  const written = trimmed({ ...form, to: to.split(/[\s,]+/).filter(Boolean) });
  const path = { tenant, channel: name };
  const kept = useKept({
    of: 'alerts',
    found,
    write: (channel: ChannelWish, header) =>
      body(api.PUT('/v1/tenants/{tenant}/alerts/channels/{channel}', { params: { path, header }, body: channel })),
    read: async () => await body(api.GET('/v1/tenants/{tenant}/alerts/channels/{channel}', { params: { path } })),
    done: close,
  });
  const remove = useMutation({
    mutationFn: () =>
      api.DELETE('/v1/tenants/{tenant}/alerts/channels/{channel}', {
        params: { path, header: { 'if-match': `"${found?.version}"` } },
      }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['t', tenant, 'alerts'] });
      close();
    },
  });
  const [asking, setAsking] = useState(false);
  const line = (key: 'url' | 'server' | 'sender' | 'user', label: string, hint?: string, required = true) => (
    <Field id={`channel-${key}`} label={label} {...(hint ? { hint } : {})}>
      {(aria) => (
        <input
          {...aria}
          className="input"
          required={required}
          value={form[key]}
          onChange={(event) => setForm({ ...form, [key]: event.target.value })}
        />
      )}
    </Field>
  );
  return (
    <Dialog title={found ? `${t.alerts.tabs.channels}: ${found.name}` : c.make} close={close} size={640}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          kept.save.mutate(written);
        }}
      >
        <div className="form-grid">
          {!found && (
            <Field id="channel-name" label={c.name} hint={t.alerts.rules.nameHint}>
              {(aria) => (
                <input
                  {...aria}
                  data-autofocus
                  className="input"
                  required
                  value={name}
                  onChange={(event) => setName(event.target.value)}
                />
              )}
            </Field>
          )}
          <Field id="channel-kind" label={c.kind} hint={c.kindMeans[form.kind] ?? ''}>
            {(aria) => (
              <select
                {...aria}
                className="select"
                value={form.kind}
                onChange={(event) => setForm({ ...form, kind: event.target.value as ChannelWish['kind'] })}
              >
                {(['webhook', 'alertmanager', 'email'] as const).map((each) => (
                  <option key={each} value={each}>
                    {c.kinds[each]}
                  </option>
                ))}
              </select>
            )}
          </Field>
        </div>
        {form.kind !== 'email' && line('url', c.url)}
        {form.kind === 'email' && (
          <div className="form-grid">
            <Field id="channel-to" label={c.to} hint={c.toHint}>
              {(aria) => (
                <input
                  {...aria}
                  className="input"
                  required
                  value={to}
                  onChange={(event) => setTo(event.target.value)}
                />
              )}
            </Field>
            {line('sender', c.sender)}
            {line('server', c.server, c.serverHint)}
            <Field id="channel-security" label={c.security}>
              {(aria) => (
                <select
                  {...aria}
                  className="select"
                  value={form.security}
                  onChange={(event) => setForm({ ...form, security: event.target.value as ChannelWish['security'] })}
                >
                  <option value="starttls">STARTTLS</option>
                  <option value="tls">TLS</option>
                  <option value="none">{t.none}</option>
                </select>
              )}
            </Field>
            {line('user', c.user, undefined, false)}
          </div>
        )}
        <Field id="channel-ca" label={c.ca}>
          {(aria) => (
            <textarea
              {...aria}
              className="input mono"
              rows={2}
              value={form.ca}
              onChange={(event) => setForm({ ...form, ca: event.target.value })}
            />
          )}
        </Field>
        <p className="sub" style={{ margin: 0 }}>
          {c.secret(`${tenant}.${name || c.name}`)}
        </p>
        {asking && found && (
          <div className="note warn">
            <p>{c.removeAsk(found.name)}</p>
          </div>
        )}
        {kept.save.isError && <ProblemNote error={kept.save.error} />}
        {remove.isError && <ProblemNote error={remove.error} />}
        <div style={{ display: 'flex', gap: 8 }}>
          <button type="submit" className="btn primary" disabled={kept.save.isPending}>
            {c.save}
          </button>
          {found && (
            <button
              type="button"
              className="btn danger"
              disabled={remove.isPending}
              onClick={() => (asking ? remove.mutate() : setAsking(true))}
            >
              {asking ? c.remove : `${c.remove} …`}
            </button>
          )}
        </div>
      </form>
      {kept.theirs && (
        <ConflictDialog
          subject={`alert-channel/${name}`}
          theirs={textOf(channelOf(kept.theirs))}
          mine={textOf(written)}
          takeHint={t.alerts.rules.takeTheirs}
          keepHint={t.alerts.rules.keepMine}
          close={kept.forget}
          choose={(take) => {
            if (take && kept.theirs) {
              setForm(channelOf(kept.theirs));
              setTo((kept.theirs.to ?? []).join(', '));
            }
            kept.goOn();
          }}
        />
      )}
    </Dialog>
  );
}
