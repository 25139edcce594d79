import { type DiffLine, diffLines, nearChanges } from './diff';
import { labelWords } from './model';
import type { Written } from './useEditor';
import { toYaml } from './yaml';

/** A policy as text, for comparing: its selector is a part of it. */
export function textOf(written: Written): string {
  const selector = labelWords(written.selector);
  const nodes = labelWords(written.nodes);
  return `${selector ? `# Pods: ${selector}\n` : ''}${nodes ? `# nodes: ${nodes}\n` : ''}${toYaml(written.doc)}`.trimEnd();
}

export function Diff({ before, after, nothing }: { before: string; after: string; nothing: string }) {
  const lines = diffLines(before, after);
  if (!lines.some((line) => line.kind !== 'same')) return <p className="sub diff-none">{nothing}</p>;
  return <Lines lines={nearChanges(lines)} />;
}

const SIGNS = { same: ' ', added: '+', removed: '-', gap: ' ' } as const;

export function Lines({ lines }: { lines: DiffLine[] }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it may have to be scrolled by keyboard
    <div className="diff mono" tabIndex={0} role="region" aria-label="diff">
      {lines.map((line, at) => (
        <div key={at} className={line.kind}>
          {SIGNS[line.kind]} {line.text}
        </div>
      ))}
    </div>
  );
}
