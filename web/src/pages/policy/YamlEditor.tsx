import { useState } from 'react';
import { useTexts } from '../../text/language';
import { type Placed, type PolicyDoc, same } from './model';
import { fromYaml, toYaml } from './yaml';

interface YamlProps {
  doc: PolicyDoc;
  problems: Placed[];
  readOnly: boolean;
  change: (doc: PolicyDoc) => void;
}

/** The policy as text. What is written is kept as it is written, as long as it says the same as the lanes. */
export function YamlEditor({ doc, problems, readOnly, change }: YamlProps) {
  const t = useTexts();
  const e = t.editor;
  const [text, setText] = useState(() => toYaml(doc));
  const [known, setKnown] = useState(doc);
  const parsed = fromYaml(text);
  if (known !== doc) {
    setKnown(doc);
    if (!('doc' in parsed) || !same(parsed.doc, doc)) setText(toYaml(doc));
  }
  const wrong = 'doc' in parsed ? undefined : parsed;
  return (
    <section className="panel yaml" aria-label={e.tabs.yaml}>
      <p className="sub" style={{ margin: 0, padding: '11px 14px' }}>
        {e.yamlHelp}
      </p>
      <textarea
        className="input mono"
        aria-label={e.tabs.yaml}
        spellCheck={false}
        rows={Math.max(18, text.split('\n').length + 1)}
        value={text}
        readOnly={readOnly}
        aria-invalid={Boolean(wrong)}
        onChange={(event) => {
          setText(event.target.value);
          const next = fromYaml(event.target.value);
          if ('doc' in next) change(next.doc);
        }}
      />
      {wrong && (
        <div className="note bad" role="alert" style={{ margin: 14 }}>
          <p>{wrong.wrong ? e.yamlWrong(wrong.line, wrong.wrong) : e.yamlNoMapping}</p>
        </div>
      )}
      {!wrong &&
        problems.map((each) => (
          <div key={each.path + each.message} className="note bad" role="alert" style={{ margin: 14 }}>
            <p>
              <span className="mono">{each.path}</span> {each.message} {each.remedy}
            </p>
          </div>
        ))}
    </section>
  );
}
