/** An administrator looks at a tenant as another role sees it. The control plane lowers what may be done; this only asks. */
import type { Role } from './queries';

const KEY = 'podlane-view-as';

export interface ViewAs {
  tenant: string;
  role: Role;
}

/** As the header has it, TENANT/ROLE; empty: as oneself. Of this tab alone. */
export function viewAsHeader(): string {
  return sessionStorage.getItem(KEY) ?? '';
}

export function viewingAs(header: string): ViewAs | undefined {
  const [tenant, role] = header.split('/');
  return tenant && role ? { tenant, role: role as Role } : undefined;
}

/** From now on, on a new page: nothing that was read as somebody else stays in memory. */
export function viewAs(as: ViewAs): void {
  sessionStorage.setItem(KEY, `${as.tenant}/${as.role}`);
  window.location.assign(`/t/${as.tenant}`);
}

export function endViewing(): void {
  const viewed = viewingAs(viewAsHeader());
  sessionStorage.removeItem(KEY);
  window.location.assign(viewed ? `/t/${viewed.tenant}/roles` : '/');
}
