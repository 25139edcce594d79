import { IconPlus, IconX } from '@tabler/icons-react';
import { useState } from 'react';
import { Dialog } from '../../parts/overlays';
import { useTexts } from '../../text/language';
import { CRITERIA, type Match, valuesOf, wordsOf } from './model';
import { completed, completions, type SeenName } from './names';

interface MatchProps {
  lane: string;
  match: Match;
  /** Names that connections had, to be chosen from. */
  seen: SeenName[];
  close: () => void;
  keep: (match: Match) => void;
  remove: (() => void) | undefined;
}

/** One match: all of its criteria must hold, and the values of each are alternatives. */
export function MatchDialog({ lane, match, seen, close, keep, remove }: MatchProps) {
  const t = useTexts();
  const e = t.editor;
  const [lines, setLines] = useState(Object.entries(match).map(([key, value]) => ({ key, words: wordsOf(value) })));
  const free = CRITERIA.find((each) => !lines.some((line) => line.key === each));
  const change = (at: number, to: Partial<{ key: string; words: string }>) =>
    setLines(lines.map((line, index) => (index === at ? { ...line, ...to } : line)));
  return (
    <Dialog title={e.matchTitle(lane)} close={close}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          keep(
            Object.fromEntries(
              lines.filter((line) => line.words.trim()).map((line) => [line.key, written(line.key, line.words)]),
            ),
          );
        }}
      >
        <p className="sub" style={{ margin: 0 }}>
          {e.matchHint}
        </p>
        {lines.map((line, at) => (
          <div key={line.key} className="criterion">
            <select
              className="select"
              aria-label={`${at + 1}`}
              value={line.key}
              onChange={(event) => change(at, { key: event.target.value })}
            >
              {[...new Set([line.key, ...CRITERIA])].map((each) => (
                <option
                  key={each}
                  value={each}
                  disabled={each !== line.key && lines.some((other) => other.key === each)}
                >
                  {e.criteria[each] ?? each}
                </option>
              ))}
            </select>
            <input
              className="input mono"
              data-autofocus={at === 0 || undefined}
              aria-label={e.criteria[line.key] ?? line.key}
              value={line.words}
              placeholder={EXAMPLES[line.key]}
              onChange={(event) => change(at, { words: event.target.value })}
            />
            <button
              type="button"
              className="btn plain"
              aria-label={`${t.close} ${e.criteria[line.key] ?? line.key}`}
              onClick={() => setLines(lines.filter((_, index) => index !== at))}
            >
              <IconX size={15} />
            </button>
            <Completions
              names={completions(seen, line.key, line.words)}
              choose={(name) => change(at, { words: completed(line.words, name) })}
            />
          </div>
        ))}
        {free && (
          <div>
            <button type="button" className="btn small" onClick={() => setLines([...lines, { key: free, words: '' }])}>
              <IconPlus size={13} />
              {e.matchAdd}
            </button>
          </div>
        )}
        <div style={{ display: 'flex', gap: 8 }}>
          <button type="submit" className="btn primary">
            {e.matchKeep}
          </button>
          {remove && (
            <button type="button" className="btn danger right" onClick={remove}>
              {e.matchRemove}
            </button>
          )}
        </div>
      </form>
    </Dialog>
  );
}

function Completions({ names, choose }: { names: string[]; choose: (name: string) => void }) {
  const t = useTexts();
  if (names.length === 0) return null;
  return (
    <fieldset className="completions" aria-label={t.names.completions}>
      <legend className="sub">{t.names.completions}</legend>
      {names.map((name) => (
        <button key={name} type="button" className="btn small mono" onClick={() => choose(name)}>
          {name}
        </button>
      ))}
    </fieldset>
  );
}

const EXAMPLES: Record<string, string> = {
  sni: 'api.example.com, *.api.example.com',
  host: 'www.example.com',
  port: '80, 8000-8100',
  cidr: '10.0.0.0/8',
  application: 'https, ssh',
  protocol: 'tcp',
  alpn: 'h2',
  source: '10.4.0.0/16',
  direction: 'outbound',
};
const ONE = new Set(['protocol', 'direction']);

function written(key: string, words: string): unknown {
  return ONE.has(key) ? words.trim() : valuesOf(words);
}
