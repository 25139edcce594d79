import { IconActivity, IconCloudCog, IconRoute, IconStack2 } from '@tabler/icons-react';
import type { Texts } from '../text/en';

/** The pages of a tenant: where they are, and the key that follows `g`. */
export const PAGES = [
  { name: 'live', to: '/t/$tenant/live', key: 'l', icon: IconActivity, group: 'main' },
  { name: 'policies', to: '/t/$tenant/policies', key: 'p', icon: IconStack2, group: 'main' },
  { name: 'rollouts', to: '/t/$tenant/rollouts', key: 'r', icon: IconRoute, group: 'main' },
  { name: 'fleet', to: '/t/$tenant/fleet', key: 'f', icon: IconCloudCog, group: 'main' },
] as const;

export type PageName = (typeof PAGES)[number]['name'] & keyof Texts['nav'];
