import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { budgets, clusters, policies } from '../../api/queries';
import { useTenant } from '../../parts/hooks';
import { useTexts } from '../../text/language';
import { lanesOf, type PolicyDoc } from '../policy/model';
import type { Scope } from './model';

interface ScopeProps {
  asked: readonly Scope[];
  scope: Partial<Record<Scope, string>>;
  change: (scope: Partial<Record<Scope, string>>) => void;
}

/** What a rule, or a budget, is about: all, if nothing is written. Names that there are can be chosen, and others be written. */
export function ScopeFields({ asked, scope, change }: ScopeProps) {
  const t = useTexts();
  const tenant = useTenant();
  const found = useQuery({ ...clusters(tenant), enabled: asked.includes('cluster') });
  const list = useInfiniteQuery({ ...policies(tenant), enabled: asked.includes('policy') });
  const all = useQuery({ ...budgets(tenant), enabled: asked.includes('budget') });
  const known = list.data?.pages.flatMap((page) => page.items) ?? [];
  const lanes = known
    .filter((each) => !scope.policy || each.name === scope.policy)
    .flatMap((each) => lanesOf(((each.in_force ?? each.draft)?.document ?? {}) as PolicyDoc))
    .map((lane) => lane.name ?? '');
  const names: Partial<Record<Scope, string[]>> = {
    cluster: found.data?.items.map((each) => each.name) ?? [],
    policy: known.map((each) => each.name),
    class: [...new Set(lanes)].sort(),
    budget: all.data?.items.map((each) => each.name) ?? [],
  };
  return asked.map((each) => (
    <div key={each} className="field" style={{ alignSelf: 'start' }}>
      <label htmlFor={`scope-${each}`}>{t.alerts.scopes[each]}</label>
      {each === 'direction' ? (
        <select
          id="scope-direction"
          className="select"
          value={scope.direction ?? ''}
          onChange={(event) => change({ ...scope, direction: event.target.value })}
        >
          <option value="">{t.alerts.everywhere}</option>
          <option value="egress">{t.live.sent}</option>
          <option value="ingress">{t.live.received}</option>
        </select>
      ) : (
        <>
          <input
            id={`scope-${each}`}
            className="input"
            list={`scope-${each}-names`}
            placeholder={t.alerts.everywhere}
            value={scope[each] ?? ''}
            onChange={(event) => change({ ...scope, [each]: event.target.value })}
          />
          <datalist id={`scope-${each}-names`}>
            {names[each]?.map((name) => (
              <option key={name} value={name} />
            ))}
          </datalist>
        </>
      )}
    </div>
  ));
}
