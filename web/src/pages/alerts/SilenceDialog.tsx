import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { api, body } from '../../api/client';
import { duration } from '../../parts/format';
import { useTenant } from '../../parts/hooks';
import { Dialog } from '../../parts/overlays';
import { ProblemNote } from '../../parts/parts';
import { useTexts } from '../../text/language';
import { type Matcher, matchersOf, matcherText } from './model';

/** Seconds that are offered. */
const LASTS = [1800, 7200, 28_800, 86_400, 604_800];

/** A silence that begins now. From an alert everything is filled in: one click, or Enter, and it is silent. */
export function SilenceDialog({ matchers, close }: { matchers: Matcher[]; close: () => void }) {
  const t = useTexts();
  const s = t.alerts.silence;
  const tenant = useTenant();
  const queries = useQueryClient();
  const [text, setText] = useState(matchers.map(matcherText).join('\n'));
  const [lasts, setLasts] = useState(7200);
  const [comment, setComment] = useState(matchers.length > 0 ? s.usual : '');
  const wished = matchersOf(text);
  const wrong = text.trim() !== '' && !wished;
  const add = useMutation({
    mutationFn: () =>
      body(
        api.POST('/v1/tenants/{tenant}/alerts/silences', {
          params: { path: { tenant } },
          body: { matchers: wished ?? [], ends_at: Math.floor(Date.now() / 1000) + lasts, comment },
        }),
      ),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ['t', tenant, 'alerts'] });
      close();
    },
  });
  return (
    <Dialog title={s.title} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          add.mutate();
        }}
      >
        <p style={{ margin: 0 }}>{s.why}</p>
        <div className="field">
          <label htmlFor="silence-matchers">{s.matchers}</label>
          <textarea
            id="silence-matchers"
            className={`input mono ${wrong ? 'wrong' : ''}`}
            rows={4}
            required
            value={text}
            aria-invalid={wrong}
            aria-describedby="silence-matchers-hint"
            onChange={(event) => setText(event.target.value)}
          />
          <span className="sub" id="silence-matchers-hint" style={wrong ? { color: 'var(--bad)' } : undefined}>
            {wrong ? s.matchersWrong : s.matchersHint}
          </span>
        </div>
        <div className="field">
          <span className="label">{s.lasts}</span>
          <div className="segments" role="group" aria-label={s.lasts} style={{ justifySelf: 'start' }}>
            {LASTS.map((each) => (
              <button key={each} type="button" aria-pressed={each === lasts} onClick={() => setLasts(each)}>
                {duration(each)}
              </button>
            ))}
          </div>
        </div>
        <div className="field">
          <label htmlFor="silence-comment">{s.comment}</label>
          <input
            id="silence-comment"
            data-autofocus
            className="input"
            required
            maxLength={500}
            value={comment}
            onFocus={(event) => event.target.select()}
            onChange={(event) => setComment(event.target.value)}
          />
        </div>
        {add.isError && <ProblemNote error={add.error} />}
        <div>
          <button type="submit" className="btn primary" disabled={!wished || add.isPending}>
            {s.go}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
