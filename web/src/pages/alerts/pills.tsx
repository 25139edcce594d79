import { useTexts } from '../../text/language';
import { aboutOf } from './model';

const TONES: Record<string, string> = { critical: 'bad', warning: 'warn', info: 'accent' };

export function SeverityPill({ severity, over = false }: { severity: string; over?: boolean }) {
  const t = useTexts();
  return (
    <span className={`pill ${over ? '' : (TONES[severity] ?? '')}`}>{t.alerts.severities[severity] ?? severity}</span>
  );
}

/** What an alert is about, by its labels. */
export function About({ labels }: { labels: Record<string, string> }) {
  return (
    <span className="sub mono" style={{ overflowWrap: 'anywhere' }}>
      {aboutOf(labels)
        .map(([name, value]) => `${name}=${value}`)
        .join('  ')}
    </span>
  );
}
