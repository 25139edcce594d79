/** Has the first page's code, the session and what the page shows asked for at once, not one after the other. */
import { policies, session } from './api/queries';
import { live } from './live/shared';
import { queries, router } from './router';

/** Begin, before anything is drawn. */
export function beginEarly(): void {
  const matches = router.matchRoutes(router.latestLocation);
  for (const { routeId } of matches)
    void router.loadRouteChunk(router.routesById[routeId as keyof typeof router.routesById]);
  void queries.prefetchQuery(session);
  // Nobody is signed in: what is asked for would be refused, and counted as an attempt.
  if (document.querySelector<HTMLMetaElement>('meta[name=podlane-session]')?.content !== 'yes') return;
  const last = matches.at(-1);
  if (last?.routeId !== '/t/$tenant/live') return;
  live.warm();
  void queries.prefetchInfiniteQuery(policies(last.params.tenant, { in_force: true }));
}
