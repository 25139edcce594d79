import { Drawer, Modal } from '@mantine/core';
import type { ReactNode } from 'react';
import { useTexts } from '../text/language';

interface Over {
  title: ReactNode;
  close: () => void;
  size?: number;
  children: ReactNode;
}

/** What one looks at beside a list. Its head is no landmark of the page. */
export function Sheet({ title, close, size = 460, children }: Over) {
  const t = useTexts();
  return (
    <Drawer.Root opened onClose={close} position="right" size={size}>
      <Drawer.Overlay />
      <Drawer.Content>
        <div className="sheet-head">
          <Drawer.Title>{title}</Drawer.Title>
          <Drawer.CloseButton aria-label={t.close} />
        </div>
        <Drawer.Body>{children}</Drawer.Body>
      </Drawer.Content>
    </Drawer.Root>
  );
}

/** A question, or a form, before anything else. Without `close` it has to be answered. */
export function Dialog({ title, close, size = 520, children }: Omit<Over, 'close'> & Partial<Pick<Over, 'close'>>) {
  const t = useTexts();
  return (
    <Modal.Root
      opened
      onClose={close ?? (() => {})}
      closeOnEscape={close !== undefined}
      closeOnClickOutside={close !== undefined}
      size={size}
      centered
    >
      <Modal.Overlay />
      <Modal.Content>
        <div className="sheet-head">
          <Modal.Title>{title}</Modal.Title>
          {close && <Modal.CloseButton aria-label={t.close} />}
        </div>
        <Modal.Body>{children}</Modal.Body>
      </Modal.Content>
    </Modal.Root>
  );
}
