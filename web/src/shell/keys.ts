import { useEffect } from 'react';

const TYPED = 'input, textarea, select, [contenteditable=true]';

/** A key that was pressed where nobody writes, or that is never written. */
export function useKeys(pressed: (event: KeyboardEvent, writing: boolean) => void): void {
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing) return;
      pressed(event, event.target instanceof Element && event.target.matches(TYPED));
    };
    window.addEventListener('keydown', listen);
    return () => window.removeEventListener('keydown', listen);
  }, [pressed]);
}

/** Have the next or previous row have the focus: rows have a link or button marked data-row. */
export function moveFocus(step: 1 | -1): void {
  const rows = [...document.querySelectorAll<HTMLElement>('main [data-row]')];
  const at = rows.indexOf(document.activeElement as HTMLElement);
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step];
  next?.focus();
  next?.scrollIntoView({ block: 'nearest' });
}
