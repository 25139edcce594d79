/** A button with a menu (https://www.w3.org/WAI/ARIA/apg/patterns/menu-button/) in the browser's own popover, which
 * closes by Escape and by what is pressed beside it, and gives the focus back. */
import { createLink } from '@tanstack/react-router';
import { type ComponentProps, type KeyboardEvent, type ReactNode, useId, useRef, useState } from 'react';

/** Pixels between a button and its menu, and from the edge of the screen. */
const GAP = 6;
const ITEM = '[role^=menuitem]:not(:disabled)';

interface MenuProps extends Omit<ComponentProps<'button'>, 'about'> {
  /** What is in the menu: items, and what is said above them (`about`). */
  items: ReactNode;
  about?: ReactNode;
  /** Where it is by the button. */
  place?: 'bottom-start' | 'bottom-end' | 'top-end';
  width?: number;
}

export function Menu({ items, about, place = 'bottom-end', width, children, ...button }: MenuProps) {
  const id = useId();
  const [opened, setOpened] = useState(false);
  const trigger = useRef<HTMLButtonElement>(null);
  const popover = useRef<HTMLDivElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const close = () => popover.current?.hidePopover();
  const put = () => {
    const at = trigger.current?.getBoundingClientRect();
    if (!at || !popover.current) return;
    const { style } = popover.current;
    const right = document.documentElement.clientWidth - at.right;
    style.inset = 'auto';
    if (place === 'top-end') style.bottom = `${document.documentElement.clientHeight - at.top + GAP}px`;
    else style.top = `${at.bottom + GAP}px`;
    if (place === 'bottom-start') style.left = `${Math.max(GAP, at.left)}px`;
    else style.right = `${Math.max(GAP, right)}px`;
  };
  return (
    <>
      <button
        type="button"
        ref={trigger}
        popoverTarget={id}
        aria-haspopup="menu"
        aria-expanded={opened}
        onKeyDown={(event) => {
          if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp') return;
          event.preventDefault();
          popover.current?.showPopover();
        }}
        {...button}
      >
        {children}
      </button>
      <div
        id={id}
        ref={popover}
        popover="auto"
        className="menu"
        style={{ width }}
        onBeforeToggle={(event) => {
          if (event.newState === 'open') put();
          setOpened(event.newState === 'open');
        }}
        onToggle={(event) => {
          if (event.newState === 'open') list.current?.querySelector<HTMLElement>(ITEM)?.focus();
        }}
      >
        {opened && about}
        <div
          role="menu"
          ref={list}
          aria-label={button['aria-label']}
          onClick={(event) => (event.target as Element).closest(ITEM) && close()}
          onKeyDown={(event) => move(event, close)}
        >
          {opened && items}
        </div>
      </div>
    </>
  );
}

function move(event: KeyboardEvent<HTMLElement>, close: () => void): void {
  if (event.key === 'Tab') {
    close();
    return;
  }
  const items = [...event.currentTarget.querySelectorAll<HTMLElement>(ITEM)];
  const at = items.indexOf(document.activeElement as HTMLElement);
  const last = items.length - 1;
  const next = { ArrowDown: at === last ? 0 : at + 1, ArrowUp: at <= 0 ? last : at - 1, Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  items[next]?.focus();
}

interface ItemProps {
  left?: ReactNode;
  right?: ReactNode;
  children: ReactNode;
}

/** Does something. With `chosen`: is one of several, of which one is. */
export function MenuItem({
  left,
  right,
  children,
  chosen,
  ...button
}: ItemProps & ComponentProps<'button'> & { chosen?: boolean }) {
  const role = chosen === undefined ? { role: 'menuitem' } : { role: 'menuitemradio', 'aria-checked': chosen };
  return (
    <button type="button" tabIndex={-1} {...role} {...button}>
      {left}
      <span className="grow">{children}</span>
      {right}
    </button>
  );
}

function MenuAnchor({ left, right, children, ...anchor }: ItemProps & ComponentProps<'a'>) {
  return (
    <a role="menuitem" tabIndex={-1} {...anchor}>
      {left}
      <span className="grow">{children}</span>
      {right}
    </a>
  );
}

/** Leads somewhere. */
export const MenuLink = createLink(MenuAnchor);
