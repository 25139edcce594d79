import {
  IconActivity,
  IconArrowsSplit2,
  IconBell,
  IconBuilding,
  IconCloudCog,
  IconGauge,
  IconHistory,
  IconHome,
  IconRoute,
  IconSettings,
  IconStack2,
  IconTags,
} from '@tabler/icons-react';
import type { Texts } from '../text/en';

/** The pages of a tenant: where they are, and the key that follows `g`. */
export const PAGES = [
  { name: 'overview', to: '/t/$tenant', key: 'o', icon: IconHome, group: 'main' },
  { name: 'live', to: '/t/$tenant/live', key: 'l', icon: IconActivity, group: 'main' },
  { name: 'policies', to: '/t/$tenant/policies', key: 'p', icon: IconStack2, group: 'main' },
  { name: 'names', to: '/t/$tenant/names', key: 'n', icon: IconTags, group: 'main' },
  { name: 'rollouts', to: '/t/$tenant/rollouts', key: 'r', icon: IconRoute, group: 'main' },
  { name: 'alerts', to: '/t/$tenant/alerts', key: 'e', icon: IconBell, group: 'main' },
  { name: 'budgets', to: '/t/$tenant/budgets', key: 'b', icon: IconGauge, group: 'main' },
  { name: 'fleet', to: '/t/$tenant/fleet', key: 'f', icon: IconCloudCog, group: 'main' },
  { name: 'workloads', to: '/t/$tenant/workloads', key: 'w', icon: IconArrowsSplit2, group: 'main' },
  { name: 'audit', to: '/t/$tenant/audit', key: 'a', icon: IconHistory, group: 'main' },
  { name: 'tenants', to: '/t/$tenant/roles', key: 't', icon: IconBuilding, group: 'organisation' },
  { name: 'settings', to: '/t/$tenant/settings', key: 's', icon: IconSettings, group: 'organisation' },
] as const;

export type PageName = (typeof PAGES)[number]['name'] & keyof Texts['nav'];
