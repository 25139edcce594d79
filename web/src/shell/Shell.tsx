/** What is around every page of a tenant: navigation, whose tenant it is, who one is, and the keyboard. */
import { useComputedColorScheme, useMantineColorScheme } from '@mantine/core';
import {
  IconCheck,
  IconChevronDown,
  IconDots,
  IconEye,
  IconHelp,
  IconLogout,
  IconMoon,
  IconSearch,
  IconSun,
} from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { Link, Outlet, useNavigate } from '@tanstack/react-router';
import { lazy, Suspense, useCallback, useRef, useState } from 'react';
import { agentsSummary, firingAlerts, tenants } from '../api/queries';
import { endViewing, viewAsHeader, viewingAs } from '../api/viewAs';
import { count } from '../parts/format';
import { useRole, useTenant } from '../parts/hooks';
import { Menu, MenuItem, MenuLink } from '../parts/menu';
import { Logo } from '../parts/parts';
import { LANGUAGES, type Language, useLanguage, useTexts } from '../text/language';
import { Ended } from './Ended';
import { moveFocus, useKeys } from './keys';
import { PAGES } from './pages';
import { signOut } from './signOut';

// What lies over a page is loaded when it is first asked for: no page needs it to be there.
const Palette = lazy(() => import('./Palette').then((found) => ({ default: found.Palette })));
const Help = lazy(() => import('./Help').then((found) => ({ default: found.Help })));

/** Milliseconds in which the letter after `g` must come. */
const SOON = 1500;
const AT_BOTTOM = 4;

export function Shell() {
  const t = useTexts();
  const tenant = useTenant();
  const navigate = useNavigate();
  const { setColorScheme } = useMantineColorScheme();
  const scheme = useComputedColorScheme('light', { getInitialValueInEffect: false });
  const [palette, setPalette] = useState(false);
  const [help, setHelp] = useState(false);
  const gone = useRef(0);
  const toggle = useCallback(() => setColorScheme(scheme === 'dark' ? 'light' : 'dark'), [scheme, setColorScheme]);
  useKeys(
    useCallback(
      (event, writing) => {
        if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'k') {
          event.preventDefault();
          setPalette(true);
          return;
        }
        if (writing || event.ctrlKey || event.metaKey || event.altKey) return;
        const page = PAGES.find((each) => each.key === event.key);
        if (page && Date.now() - gone.current < SOON) {
          gone.current = 0;
          void navigate({ to: page.to, params: { tenant } });
        } else if (event.key === 'g') gone.current = Date.now();
        else if (event.key === '?') setHelp(true);
        else if (event.key === '/') {
          event.preventDefault();
          setPalette(true);
        } else if (event.key === 'j' || event.key === 'k') moveFocus(event.key === 'j' ? 1 : -1);
        else if (event.key === 't') toggle();
      },
      [navigate, tenant, toggle],
    ),
  );
  return (
    <div className="shell">
      <a className="skip" href="#content">
        {t.nav.skip}
      </a>
      <Rail />
      <header className="top">
        <TenantPick />
        <button type="button" className="find" onClick={() => setPalette(true)}>
          <IconSearch size={16} aria-hidden />
          <span>{t.top.find}</span>
          <kbd>Ctrl K</kbd>
        </button>
        <RolePill />
        <button
          type="button"
          className="btn plain"
          onClick={toggle}
          aria-label={scheme === 'dark' ? t.top.light : t.top.dark}
          title={scheme === 'dark' ? t.top.light : t.top.dark}
        >
          {scheme === 'dark' ? <IconSun size={18} /> : <IconMoon size={18} />}
        </button>
        <button
          type="button"
          className="btn plain wide"
          onClick={() => setHelp(true)}
          aria-label={t.top.help}
          title={t.top.help}
        >
          <IconHelp size={18} />
        </button>
        <Account />
      </header>
      <main id="content" tabIndex={-1}>
        <Viewing />
        <Outlet />
      </main>
      <Bottom />
      <Suspense fallback={null}>
        {palette && <Palette opened close={() => setPalette(false)} toggleTheme={toggle} />}
        {help && <Help close={() => setHelp(false)} />}
      </Suspense>
      <Ended />
    </div>
  );
}

/** Says that one sees what another role sees, and ends it. */
function Viewing() {
  const t = useTexts();
  const viewed = viewingAs(viewAsHeader());
  if (!viewed) return null;
  return (
    <div className="note info viewing" role="status">
      <IconEye size={17} aria-hidden />
      <p className="grow">{t.viewing.says(viewed.tenant, t.roles[viewed.role])}</p>
      <button type="button" className="btn small" onClick={endViewing}>
        {t.viewing.end}
      </button>
    </div>
  );
}

function Rail() {
  const t = useTexts();
  const tenant = useTenant();
  const summary = useQuery(agentsSummary(tenant));
  const connected = summary.data ? summary.data.agents - (summary.data.states.away ?? 0) : 0;
  return (
    <nav className="rail" aria-label={t.nav.main}>
      <div className="brand">
        <Logo />
        Podlane
      </div>
      {PAGES.map((page, at) => (
        <RailLink key={page.name} page={page} before={page.group !== PAGES[at - 1]?.group && page.group !== 'main'} />
      ))}
      <div className="foot num">
        {summary.data &&
          (summary.data.agents ? t.nav.online(count(connected), count(summary.data.agents)) : t.nav.noAgents)}
      </div>
    </nav>
  );
}

function RailLink({ page, before }: { page: (typeof PAGES)[number]; before: boolean }) {
  const t = useTexts();
  const tenant = useTenant();
  return (
    <>
      {before && <div className="section">{t.nav.organisation}</div>}
      <Link
        to={page.to}
        params={{ tenant }}
        activeOptions={{ exact: isStart(page.to), includeSearch: false }}
        activeProps={{ className: 'active' }}
      >
        <page.icon size={17} stroke={1.8} aria-hidden />
        {t.nav[page.name]}
        {page.name === 'alerts' && <Fire />}
      </Link>
    </>
  );
}

/** How many alerts fire that are not silenced. */
function Fire() {
  const t = useTexts();
  const { data } = useQuery(firingAlerts(useTenant()));
  const n = data?.items.filter((each) => each.silenced_by.length === 0).length ?? 0;
  if (n === 0) return null;
  return (
    <span className="count bad num">
      {count(n)} <span className="hidden">{t.alerts.states.firing}</span>
    </span>
  );
}

/** On a small screen: the first pages, and a menu of the others. */
function Bottom() {
  const t = useTexts();
  const tenant = useTenant();
  return (
    <nav className="bottom" aria-label={t.nav.main}>
      {PAGES.slice(0, AT_BOTTOM).map((page) => (
        <Link
          key={page.name}
          to={page.to}
          params={{ tenant }}
          activeOptions={{ exact: isStart(page.to), includeSearch: false }}
          activeProps={{ className: 'active' }}
        >
          <page.icon size={20} stroke={1.8} aria-hidden />
          {t.nav[page.name]}
        </Link>
      ))}
      {PAGES.length > AT_BOTTOM && (
        <Menu
          place="top-end"
          items={PAGES.slice(AT_BOTTOM).map((page) => (
            <MenuLink key={page.name} to={page.to} params={{ tenant }} left={<page.icon size={17} aria-hidden />}>
              {t.nav[page.name]}
            </MenuLink>
          ))}
        >
          <IconDots size={20} stroke={1.8} aria-hidden />
          {t.nav.more}
        </Menu>
      )}
    </nav>
  );
}

function TenantPick() {
  const t = useTexts();
  const tenant = useTenant();
  const found = useQuery(tenants);
  const title = found.data?.items.find((each) => each.name === tenant)?.title;
  return (
    <Menu
      className="pick"
      aria-label={`${t.top.tenant}: ${tenant}`}
      place="bottom-start"
      width={260}
      items={(found.data?.items ?? []).map((each) => (
        <MenuLink
          key={each.name}
          to="/t/$tenant"
          params={{ tenant: each.name }}
          right={each.name === tenant ? <IconCheck size={15} /> : undefined}
        >
          <b>{each.name}</b> <span className="sub">{each.title}</span>
        </MenuLink>
      ))}
    >
      <i />
      <span className="cut">{tenant}</span>
      {title && (
        <span className="cut wide" style={{ color: 'var(--ink3)', fontWeight: 500 }}>
          {title}
        </span>
      )}
      <IconChevronDown size={14} aria-hidden style={{ flex: 'none' }} />
    </Menu>
  );
}

function RolePill() {
  const t = useTexts();
  const { role } = useRole();
  return (
    <span className="pill wide" title={t.top.role}>
      {t.roles[role ?? 'none']}
    </span>
  );
}

function Account() {
  const { t, language, speak } = useLanguage();
  const { author } = useRole();
  return (
    <Menu
      className="avatar"
      title={t.top.account(author)}
      width={260}
      about={
        <p className="sub">
          {t.top.signedInAs} <span className="mono">{author}</span>
        </p>
      }
      items={
        <>
          <div role="group" aria-label={t.top.language}>
            <p className="sub" role="presentation" aria-hidden="true">
              {t.top.language}
            </p>
            {(Object.keys(LANGUAGES) as Language[]).map((each) => (
              <MenuItem
                key={each}
                lang={each}
                chosen={each === language}
                onClick={() => speak(each)}
                right={each === language ? <IconCheck size={15} /> : undefined}
              >
                {LANGUAGES[each]}
              </MenuItem>
            ))}
          </div>
          <hr />
          <MenuItem left={<IconLogout size={16} />} onClick={() => void signOut()}>
            {t.top.signOut}
          </MenuItem>
        </>
      }
    >
      {initials(author)}
      <span className="hidden">{t.top.account(author)}</span>
    </Menu>
  );
}

function initials(author: string): string {
  const words = author.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  return ((words[0]?.[0] ?? '?') + (words[1]?.[0] ?? '')).toUpperCase();
}

const isStart = (path: string) => path === '/t/$tenant';
