/** Policies as YAML, in the order in which people write them. */
import { parseDocument, stringify } from 'yaml';
import type { PolicyDoc } from './model';

const ORDER = [
  'total',
  'budget',
  'shaper',
  'ingress',
  'requests',
  'quic',
  'name',
  'rate',
  'ceil',
  'priority',
  'queue',
  'burst',
  'match',
  'sni',
  'host',
  'alpn',
  'port',
  'cidr',
  'classes',
  'default',
];

export function toYaml(doc: unknown): string {
  return stringify(ordered(doc), { flowCollectionPadding: false, lineWidth: 0, collectionStyle: 'any' });
}

function ordered(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(ordered);
  if (value === null || typeof value !== 'object') return value;
  const rank = (key: string) => (ORDER.includes(key) ? ORDER.indexOf(key) : ORDER.length);
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => rank(a) - rank(b))
      .map(([key, inner]) => [key, ordered(inner)]),
  );
}

/** The document, or why the text is no YAML, with its line. */
export function fromYaml(text: string): { doc: PolicyDoc } | { wrong: string; line: number } {
  const parsed = parseDocument(text, { prettyErrors: false });
  const [error] = parsed.errors;
  if (error) return { wrong: error.message, line: text.slice(0, error.pos[0]).split('\n').length };
  const doc: unknown = parsed.toJS({ maxAliasCount: 0 });
  if (doc === null || typeof doc !== 'object' || Array.isArray(doc)) return { wrong: '', line: 1 };
  return { doc: doc as PolicyDoc };
}
