/** All pages, and what their addresses hold: a filter or a chosen row is in the address, so that it can be sent to others. */
import { MutationCache, QueryCache, QueryClient } from '@tanstack/react-query';
import {
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
  redirect,
} from '@tanstack/react-router';
import { Problem } from './api/client';
import { type AgentSort, type AgentState, type NameSort, session, tenants } from './api/queries';
import { endViewing, viewAsHeader } from './api/viewAs';
import { Failed, NotFound } from './shell/Failed';

/** Nobody is let in any more: the session is looked at again, and the shell asks to sign in (Ended). */
function refused(error: Error): void {
  if (!(error instanceof Problem && error.status === 401)) return;
  const known = queries.getQueryState(session.queryKey);
  if (known?.status === 'success') void queries.invalidateQueries({ queryKey: session.queryKey });
}

export const queries: QueryClient = new QueryClient({
  queryCache: new QueryCache({ onError: refused }),
  mutationCache: new MutationCache({ onError: refused }),
  defaultOptions: {
    queries: {
      staleTime: 1000,
      retry: (failures, error) =>
        failures < 2 && !(error instanceof Problem && error.status >= 400 && error.status < 500),
    },
  },
});

const root = createRootRoute({ component: Outlet, notFoundComponent: NotFound, errorComponent: Failed });

const signIn = createRoute({
  getParentRoute: () => root,
  path: '/sign-in',
  validateSearch: (search): { next?: string } => text(search, 'next'),
  component: lazyRouteComponent(() => import('./pages/SignIn'), 'SignIn'),
});

const start = createRoute({
  getParentRoute: () => root,
  path: '/',
  beforeLoad: async () => {
    await signedIn('/');
    const found = await queries.ensureQueryData(tenants);
    const first = found.items.find((each) => each.name !== 'platform') ?? found.items[0];
    if (first) throw redirect({ to: '/t/$tenant', params: { tenant: first.name }, replace: true });
  },
  component: lazyRouteComponent(() => import('./pages/SignIn'), 'NoTenant'),
});

const tenant = createRoute({
  getParentRoute: () => root,
  path: '/t/$tenant',
  beforeLoad: ({ location }) => signedIn(location.href),
  component: lazyRouteComponent(() => import('./shell/Shell'), 'Shell'),
});

const fleet = createRoute({
  getParentRoute: () => tenant,
  path: 'fleet',
  validateSearch: (
    search,
  ): { state?: AgentState; cluster?: string; node?: string; sort?: AgentSort; agent?: string } => ({
    ...oneOf(search, 'state', ['in-sync', 'behind', 'failed', 'away']),
    ...oneOf(search, 'sort', ['node', '-node', 'joined', '-joined']),
    ...text(search, 'cluster'),
    ...text(search, 'node'),
    ...text(search, 'agent'),
  }),
  component: lazyRouteComponent(() => import('./pages/Fleet'), 'Fleet'),
});

const overview = createRoute({
  getParentRoute: () => tenant,
  path: '/',
  component: lazyRouteComponent(() => import('./pages/Overview'), 'Overview'),
});

const alerts = createRoute({
  getParentRoute: () => tenant,
  path: 'alerts',
  validateSearch: (
    search,
  ): {
    tab?: 'rules' | 'silences' | 'channels';
    only?: 'firing' | 'resolved';
    text?: string;
    alert?: string;
    rule?: string;
  } => ({
    ...oneOf(search, 'tab', ['rules', 'silences', 'channels']),
    ...oneOf(search, 'only', ['firing', 'resolved']),
    ...text(search, 'text'),
    ...text(search, 'alert'),
    ...text(search, 'rule'),
  }),
  component: lazyRouteComponent(() => import('./pages/Alerts'), 'Alerts'),
});

const budgets = createRoute({
  getParentRoute: () => tenant,
  path: 'budgets',
  validateSearch: (search): { budget?: string } => text(search, 'budget'),
  component: lazyRouteComponent(() => import('./pages/Budgets'), 'Budgets'),
});

const workloads = createRoute({
  getParentRoute: () => tenant,
  path: 'workloads',
  validateSearch: (search): { agent?: string; pod?: string } => ({
    ...text(search, 'agent'),
    ...text(search, 'pod'),
  }),
  component: lazyRouteComponent(() => import('./pages/Workloads'), 'Workloads'),
});

const audit = createRoute({
  getParentRoute: () => tenant,
  path: 'audit',
  validateSearch: (search): { author?: string; subject?: string; kind?: string; at?: string } => ({
    ...text(search, 'author'),
    ...text(search, 'subject'),
    ...text(search, 'kind'),
    ...text(search, 'at'),
  }),
  component: lazyRouteComponent(() => import('./pages/Audit'), 'Audit'),
});

const roles = createRoute({
  getParentRoute: () => tenant,
  path: 'roles',
  component: lazyRouteComponent(() => import('./pages/Tenants'), 'Tenants'),
});

const settings = createRoute({
  getParentRoute: () => tenant,
  path: 'settings',
  component: lazyRouteComponent(() => import('./pages/Settings'), 'Settings'),
});

const live = createRoute({
  getParentRoute: () => tenant,
  path: 'live',
  validateSearch: (
    search,
  ): {
    policy?: string;
    cluster?: string;
    node?: string;
    namespace?: string;
    controller?: string;
    pod?: string;
    direction?: 'ingress';
    seconds?: number;
  } => ({
    ...text(search, 'policy'),
    ...text(search, 'cluster'),
    ...text(search, 'node'),
    ...text(search, 'namespace'),
    ...text(search, 'controller'),
    ...text(search, 'pod'),
    ...oneOf(search, 'direction', ['ingress']),
    ...(search.seconds === 60 || search.seconds === 900 ? { seconds: search.seconds } : {}),
  }),
  component: lazyRouteComponent(() => import('./pages/Live'), 'Live'),
});

const policies = createRoute({
  getParentRoute: () => tenant,
  path: 'policies',
  validateSearch: (search): { name?: string; draft?: boolean; in_force?: boolean; observe?: boolean } => ({
    ...yes(search, 'observe'),
    ...text(search, 'name'),
    ...yes(search, 'draft'),
    ...yes(search, 'in_force'),
  }),
  component: lazyRouteComponent(() => import('./pages/Policies'), 'Policies'),
});

const policy = createRoute({
  getParentRoute: () => tenant,
  path: 'policies/$policy',
  validateSearch: (search): { tab?: 'yaml' | 'history' } => oneOf(search, 'tab', ['yaml', 'history']),
  component: lazyRouteComponent(() => import('./pages/Policy'), 'Policy'),
});

const names = createRoute({
  getParentRoute: () => tenant,
  path: 'names',
  validateSearch: (
    search,
  ): { name?: string; cluster?: string; namespace?: string; decided?: 'none' | 'port' | 'name'; order?: NameSort } => ({
    ...text(search, 'name'),
    ...text(search, 'cluster'),
    ...text(search, 'namespace'),
    ...oneOf(search, 'decided', ['none', 'port', 'name']),
    ...oneOf(search, 'order', ['-connections', '-last_seen', 'name']),
  }),
  component: lazyRouteComponent(() => import('./pages/Names'), 'Names'),
});

const rollouts = createRoute({
  getParentRoute: () => tenant,
  path: 'rollouts',
  component: lazyRouteComponent(() => import('./pages/Rollouts'), 'Rollouts'),
});

const rollout = createRoute({
  getParentRoute: () => tenant,
  path: 'rollouts/$policy',
  component: lazyRouteComponent(() => import('./pages/Rollout'), 'Rollout'),
});

export const router = createRouter({
  routeTree: root.addChildren([
    signIn,
    start,
    tenant.addChildren([
      overview,
      alerts,
      budgets,
      workloads,
      audit,
      roles,
      settings,
      live,
      policies,
      policy,
      names,
      rollouts,
      rollout,
      fleet,
    ]),
  ]),
  defaultPreload: 'intent',
  defaultErrorComponent: Failed,
  defaultNotFoundComponent: NotFound,
  scrollRestoration: true,
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}

async function signedIn(next: string): Promise<void> {
  try {
    await queries.ensureQueryData(session);
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      throw redirect({ to: '/sign-in', search: next === '/' ? {} : { next } });
    }
    // What could be looked at so a moment ago: a role was taken away, or the tenant closed.
    if (error instanceof Problem && error.status === 403 && viewAsHeader()) return endViewing();
    throw error;
  }
}

/** A key of the address that is some text, if it is there. */
function text<K extends string>(search: Record<string, unknown>, key: K): { [key in K]?: string } {
  const value = search[key];
  return typeof value === 'string' || typeof value === 'number'
    ? ({ [key]: String(value) } as { [key in K]?: string })
    : {};
}

function oneOf<const K extends string, const V extends string>(
  search: Record<string, unknown>,
  key: K,
  values: V[],
): { [key in K]?: V } {
  const value = search[key] as V;
  return values.includes(value) ? ({ [key]: value } as { [key in K]?: V }) : {};
}

function yes<const K extends string>(search: Record<string, unknown>, key: K): { [key in K]?: boolean } {
  return search[key] === true ? ({ [key]: true } as { [key in K]?: boolean }) : {};
}
