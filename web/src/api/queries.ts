/** What pages read, by the keys under which it is kept. */
import { infiniteQueryOptions, keepPreviousData, queryOptions } from '@tanstack/react-query';
import { api, body, type Schemas, setCsrfToken } from './client';
import type { paths } from './schema';

export type Session = Schemas['SessionDocument'];
export type AgentState = Schemas['AgentState'];
export type Role = Schemas['Role'];
export type AgentSort = NonNullable<
  NonNullable<paths['/v1/tenants/{tenant}/agents']['get']['parameters']['query']>['sort']
>;

const PAGE = 200;
const CONNECTIONS = 10;
/** Milliseconds between looks at what changes by itself. */
export const LOOK = 2000;

export const signInWays = queryOptions({
  queryKey: ['sign-in'],
  queryFn: () => body(api.GET('/v1/sign-in')),
  staleTime: Number.POSITIVE_INFINITY,
});

export const session = queryOptions({
  queryKey: ['session'],
  queryFn: async () => {
    const found = await body(api.GET('/v1/session'));
    setCsrfToken(found.csrf_token);
    return found;
  },
  staleTime: 60_000,
  retry: false,
});

export const tenants = queryOptions({
  queryKey: ['tenants'],
  queryFn: () => body(api.GET('/v1/tenants', { params: { query: { limit: 1000 } } })),
  staleTime: 60_000,
});

export const agentsSummary = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'agents', 'summary'],
    queryFn: () => body(api.GET('/v1/tenants/{tenant}/agents/summary', { params: { path: { tenant } } })),
    refetchInterval: LOOK,
  });

export interface AgentsAsked {
  state?: AgentState;
  cluster?: string;
  node?: string;
  sort?: AgentSort;
}

export const agents = (tenant: string, asked: AgentsAsked) =>
  infiniteQueryOptions({
    queryKey: ['t', tenant, 'agents', 'list', asked],
    queryFn: ({ pageParam }) =>
      body(
        api.GET('/v1/tenants/{tenant}/agents', {
          params: { path: { tenant }, query: { ...asked, limit: PAGE, cursor: pageParam } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (last) => last.next,
    placeholderData: keepPreviousData,
    // All pages are read again: with many of them that would be more than anybody looks at.
    refetchInterval: (query) => ((query.state.data?.pages.length ?? 0) <= 2 ? LOOK : false),
  });

export const agent = (tenant: string, cluster: string, node: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'agents', 'one', cluster, node],
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/clusters/{cluster}/agents/{node}', {
          params: { path: { tenant, cluster, node } },
        }),
      ),
    refetchInterval: LOOK,
  });

export const clusters = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'clusters'],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/clusters', { params: { path: { tenant }, query: { limit: 1000 } } })),
  });

export interface PoliciesAsked {
  name?: string;
  draft?: boolean;
  in_force?: boolean;
}

export const policies = (tenant: string, asked: PoliciesAsked = {}) =>
  infiniteQueryOptions({
    queryKey: ['t', tenant, 'policies', asked],
    queryFn: ({ pageParam }) =>
      body(
        api.GET('/v1/tenants/{tenant}/policies', {
          params: { path: { tenant }, query: { ...asked, limit: PAGE, cursor: pageParam } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (last) => last.next,
    placeholderData: keepPreviousData,
    refetchInterval: (query) => ((query.state.data?.pages.length ?? 0) <= 2 ? LOOK : false),
  });

export const policy = (tenant: string, name: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'policy', name],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/policies/{policy}', { params: { path: { tenant, policy: name } } })),
    refetchInterval: LOOK,
  });

export const revisions = (tenant: string, name: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'policy', name, 'revisions'],
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/policies/{policy}/revisions', {
          params: { path: { tenant, policy: name }, query: { sort: '-revision', limit: 200 } },
        }),
      ),
  });

/** What happened to something, the newest first. */
export const eventsOf = (tenant: string, subject: string, limit = 200) =>
  queryOptions({
    queryKey: ['t', tenant, 'events', subject, limit],
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/events', {
          params: { path: { tenant }, query: { subject, sort: '-position', limit } },
        }),
      ),
  });

export const figures = (tenant: string, seconds: number, name?: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'figures', seconds, name ?? ''],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/figures', { params: { path: { tenant }, query: { seconds, policy: name } } })),
  });

export type NameSort = NonNullable<
  NonNullable<paths['/v1/tenants/{tenant}/names']['get']['parameters']['query']>['sort']
>;

export interface NamesAsked {
  name?: string;
  cluster?: string;
  namespace?: string;
  policy?: string;
  decided?: ('name' | 'port' | 'default')[];
  sort?: NameSort;
}

/** Milliseconds between looks at names and hits: agents say them each five seconds at most. */
const LOOK_AT_NAMES = 5000;

export const names = (tenant: string, asked: NamesAsked, limit = PAGE) =>
  infiniteQueryOptions({
    queryKey: ['t', tenant, 'names', asked, limit],
    queryFn: ({ pageParam }) =>
      body(
        api.GET('/v1/tenants/{tenant}/names', {
          params: { path: { tenant }, query: { ...asked, limit, cursor: pageParam } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (last) => last.next,
    placeholderData: keepPreviousData,
    refetchInterval: (query) => ((query.state.data?.pages.length ?? 0) <= 2 ? LOOK_AT_NAMES : false),
  });

/** How many connections each match of a policy has taken in the last hour. */
export const hits = (tenant: string, name: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'policy', name, 'hits'],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/policies/{policy}/hits', { params: { path: { tenant, policy: name } } })),
    refetchInterval: LOOK_AT_NAMES,
  });

export const rollout = (tenant: string, name: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'rollout', name],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/policies/{policy}/rollout', { params: { path: { tenant, policy: name } } })),
    refetchInterval: LOOK,
  });

export interface EventsAsked {
  author?: string;
  subject?: string;
  kind?: string;
}

export const events = (tenant: string, asked: EventsAsked) =>
  infiniteQueryOptions({
    queryKey: ['t', tenant, 'events', 'list', asked],
    queryFn: ({ pageParam }) =>
      body(
        api.GET('/v1/tenants/{tenant}/events', {
          params: { path: { tenant }, query: { ...asked, sort: '-position', limit: 100, cursor: pageParam } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (last) => last.next,
    placeholderData: keepPreviousData,
    refetchInterval: (query) => ((query.state.data?.pages.length ?? 0) <= 1 ? LOOK * 2 : false),
  });

export const tokens = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'tokens'],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/tokens', { params: { path: { tenant }, query: { limit: 1000 } } })),
  });

export const grants = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'grants'],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/grants', { params: { path: { tenant }, query: { limit: 1000 } } })),
  });

export const budgets = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'budgets'],
    queryFn: () => body(api.GET('/v1/tenants/{tenant}/budgets', { params: { path: { tenant } } })),
    refetchInterval: LOOK,
  });

/** Those that fire, the newest first. */
export const firingAlerts = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'alerts', 'firing'],
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/alerts', {
          params: { path: { tenant }, query: { state: 'firing', limit: 1000 } },
        }),
      ),
    refetchInterval: LOOK,
  });

/** Those of a rule, with who was told of them. */
export const alertsOf = (tenant: string, rule: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'alerts', 'of', rule],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/alerts', { params: { path: { tenant }, query: { rule, limit: 1000 } } })),
    refetchInterval: LOOK,
  });

export const alertRules = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'alerts', 'rules'],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/alerts/rules', { params: { path: { tenant }, query: { limit: 1000 } } })),
    refetchInterval: LOOK,
  });

export const alertRule = (tenant: string, rule: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'alerts', 'rule', rule],
    queryFn: () => body(api.GET('/v1/tenants/{tenant}/alerts/rules/{rule}', { params: { path: { tenant, rule } } })),
  });

export const silences = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'alerts', 'silences'],
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/alerts/silences', {
          params: { path: { tenant }, query: { sort: '-ends_at', limit: 1000 } },
        }),
      ),
    refetchInterval: LOOK,
  });

export const alertChannels = (tenant: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'alerts', 'channels'],
    queryFn: () =>
      body(api.GET('/v1/tenants/{tenant}/alerts/channels', { params: { path: { tenant }, query: { limit: 1000 } } })),
    refetchInterval: LOOK,
  });

/** Asked of the agent itself, each time. */
export const effectivePolicy = (tenant: string, cluster: string, node: string, workload: string) =>
  queryOptions({
    queryKey: ['t', tenant, 'effective-policy', cluster, node, workload],
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/clusters/{cluster}/agents/{node}/effective-policy', {
          params: { path: { tenant, cluster, node }, query: { workload } },
        }),
      ),
    staleTime: 0,
    retry: false,
  });

export const connections = (
  tenant: string,
  asked: { cluster: string; node: string; workload: string; order: 'largest' | 'newest' },
) => {
  const { cluster, node, ...query } = asked;
  return queryOptions({
    queryKey: ['t', tenant, 'connections', asked],
    queryFn: () =>
      body(
        api.GET('/v1/tenants/{tenant}/clusters/{cluster}/agents/{node}/connections', {
          params: { path: { tenant, cluster, node }, query: { ...query, limit: CONNECTIONS } },
        }),
      ),
    // Its agent looks them up each time.
    refetchInterval: 2.5 * LOOK,
    placeholderData: keepPreviousData,
    retry: false,
  });
};
