import { api, body } from '../api/client';

/** End the session here, and at the identity provider where there is one. */
export async function signOut(): Promise<void> {
  const { logout_url } = await body(api.POST('/v1/logout'));
  sessionStorage.clear();
  // A new page: nothing that was read stays in memory.
  window.location.assign(logout_url ?? '/sign-in');
}
