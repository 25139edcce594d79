import { getRouteApi, Link } from '@tanstack/react-router';
import { useTenant } from '../parts/hooks';
import { Page } from '../parts/parts';
import { useTexts } from '../text/language';
import { Channels } from './alerts/Channels';
import { Firing } from './alerts/Firing';
import { Rules } from './alerts/Rules';
import { Silences } from './alerts/Silences';

const route = getRouteApi('/t/$tenant/alerts');

export function Alerts() {
  const t = useTexts();
  const tenant = useTenant();
  const { tab = 'firing' } = route.useSearch();
  return (
    <Page title={t.nav.alerts} sub={<span className="wide">{t.alerts.sub}</span>}>
      <nav className="tabs" aria-label={t.nav.alerts}>
        {(['firing', 'rules', 'silences', 'channels'] as const).map((each) => (
          <Link
            key={each}
            to="/t/$tenant/alerts"
            params={{ tenant }}
            search={each === 'firing' ? {} : { tab: each }}
            activeOptions={{ exact: true }}
            activeProps={{}}
            className={each === tab ? 'active' : ''}
            aria-current={each === tab ? 'page' : undefined}
          >
            {t.alerts.tabs[each]}
          </Link>
        ))}
      </nav>
      {tab === 'firing' && <Firing />}
      {tab === 'rules' && <Rules />}
      {tab === 'silences' && <Silences />}
      {tab === 'channels' && <Channels />}
    </Page>
  );
}
