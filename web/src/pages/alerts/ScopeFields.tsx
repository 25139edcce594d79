import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { clusters, policies } from '../../api/queries';
import { useTenant } from '../../parts/hooks';
import { useTexts } from '../../text/language';
import { type AlertKind, type Scope, scopesOf } from './model';

interface ScopeProps {
  kind: AlertKind;
  scope: Partial<Record<Scope, string>>;
  change: (scope: Partial<Record<Scope, string>>) => void;
}

/** What a rule is about: all, if nothing is written. Names that there are can be chosen, and others be written. */
export function ScopeFields({ kind, scope, change }: ScopeProps) {
  const t = useTexts();
  const tenant = useTenant();
  const asked = scopesOf(kind);
  const found = useQuery({ ...clusters(tenant), enabled: asked.includes('cluster') });
  const list = useInfiniteQuery({ ...policies(tenant), enabled: asked.includes('policy') });
  const names: Partial<Record<Scope, string[]>> = {
    cluster: found.data?.items.map((each) => each.name) ?? [],
    policy: list.data?.pages.flatMap((page) => page.items.map((each) => each.name)) ?? [],
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
