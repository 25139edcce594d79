import { Modal } from '@mantine/core';
import { IconMoon, IconServer2, IconStack2 } from '@tabler/icons-react';
import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { useNavigate } from '@tanstack/react-router';
import { type ReactNode, useId, useMemo, useState } from 'react';
import { api, body } from '../api/client';
import { useSettled, useTenant } from '../parts/hooks';
import { useTexts } from '../text/language';
import { PAGES } from './pages';

interface Choice {
  id: string;
  group: string;
  icon: ReactNode;
  text: string;
  also?: string;
  go: () => void;
}

const NAME = /^[a-z0-9.-]{1,253}$/;
const MOST = 6;

/** Finds pages by what they are called, policies and nodes by how they begin: the server looks. */
export function Palette({
  opened,
  close,
  toggleTheme,
}: {
  opened: boolean;
  close: () => void;
  toggleTheme: () => void;
}) {
  const t = useTexts();
  return (
    <Modal.Root opened={opened} onClose={close} yOffset="12vh" size={560}>
      <Modal.Overlay />
      <Modal.Content aria-label={t.keys.palette}>
        <Modal.Body p={0}>
          <Finder close={close} toggleTheme={toggleTheme} />
        </Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}

function Finder({ close, toggleTheme }: { close: () => void; toggleTheme: () => void }) {
  const t = useTexts();
  const tenant = useTenant();
  const navigate = useNavigate();
  const id = useId();
  const [asked, setAsked] = useState('');
  const [at, setAt] = useState(0);
  const settled = useSettled(asked.trim().toLowerCase(), 150);
  const found = useQuery({
    queryKey: ['t', tenant, 'find', settled],
    enabled: NAME.test(settled),
    placeholderData: keepPreviousData,
    queryFn: async () => {
      const path = { tenant };
      const [policies, agents] = await Promise.all([
        body(api.GET('/v1/tenants/{tenant}/policies', { params: { path, query: { name: settled, limit: MOST } } })),
        body(api.GET('/v1/tenants/{tenant}/agents', { params: { path, query: { node: settled, limit: MOST } } })),
      ]);
      return { policies: policies.items, agents: agents.items };
    },
  });
  const choices = useMemo(() => {
    const wanted = asked.trim().toLowerCase();
    const made: Choice[] = PAGES.filter((page) => t.nav[page.name].toLowerCase().includes(wanted)).map((page) => ({
      id: page.name,
      group: t.keys.pages,
      icon: <page.icon size={17} />,
      text: t.nav[page.name],
      also: `g ${page.key}`,
      go: () => void navigate({ to: page.to, params: { tenant } }),
    }));
    if (wanted && found.data) {
      for (const each of found.data.policies) {
        made.push({
          id: `policy ${each.name}`,
          group: t.keys.policies,
          icon: <IconStack2 size={17} />,
          text: each.name,
          go: () => void navigate({ to: '/t/$tenant/policies/$policy', params: { tenant, policy: each.name } }),
        });
      }
      for (const each of found.data.agents) {
        made.push({
          id: `agent ${each.cluster}/${each.node}`,
          group: t.keys.agents,
          icon: <IconServer2 size={17} />,
          text: each.node,
          also: each.cluster,
          go: () =>
            void navigate({
              to: '/t/$tenant/fleet',
              params: { tenant },
              search: { agent: `${each.cluster}/${each.node}` },
            }),
        });
      }
    }
    if (t.keys.theme.toLowerCase().includes(wanted)) {
      made.push({
        id: 'theme',
        group: t.keys.actions,
        icon: <IconMoon size={17} />,
        text: t.keys.theme,
        also: 't',
        go: toggleTheme,
      });
    }
    return made;
  }, [asked, found.data, navigate, t, tenant, toggleTheme]);
  const chosen = choices[Math.min(at, choices.length - 1)];
  const take = (choice: Choice | undefined) => {
    if (!choice) return;
    close();
    choice.go();
  };
  return (
    <div className="palette">
      <input
        data-autofocus
        role="combobox"
        aria-label={t.keys.palette}
        aria-expanded="true"
        aria-controls={`${id}list`}
        aria-activedescendant={chosen && `${id}${chosen.id}`}
        placeholder={t.top.find}
        value={asked}
        onChange={(event) => {
          setAsked(event.target.value);
          setAt(0);
        }}
        onKeyDown={(event) => {
          if (event.key === 'ArrowDown') setAt((now) => Math.min(now + 1, choices.length - 1));
          else if (event.key === 'ArrowUp') setAt((now) => Math.max(now - 1, 0));
          else if (event.key === 'Enter') take(chosen);
          else return;
          event.preventDefault();
        }}
      />
      <div
        role="listbox"
        id={`${id}list`}
        aria-label={t.keys.palette}
        style={{ padding: 6, maxHeight: 380, overflowY: 'auto' }}
      >
        {choices.map((choice, index) => (
          <div key={choice.id} role="presentation">
            {choice.group !== choices[index - 1]?.group && (
              <div className="group" role="presentation">
                {choice.group}
              </div>
            )}
            {/* biome-ignore lint/a11y/useKeyWithClickEvents: keys go to the input, which says which option is active */}
            <div
              role="option"
              tabIndex={-1}
              id={`${id}${choice.id}`}
              aria-selected={choice === chosen}
              onMouseMove={() => setAt(index)}
              onClick={() => take(choice)}
            >
              {choice.icon}
              {choice.text}
              <span className="sub right">{choice.also}</span>
            </div>
          </div>
        ))}
      </div>
      {choices.length === 0 && (
        <p className="sub" style={{ padding: '0 16px 14px', margin: 0 }}>
          {t.keys.nothing}
        </p>
      )}
    </div>
  );
}
