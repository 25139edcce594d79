import { Dialog } from '../parts/overlays';
import { useTexts } from '../text/language';
import { PAGES } from './pages';

/** All keys. */
export function Help({ close }: { close: () => void }) {
  const t = useTexts();
  const keys: [string, string][] = [
    ['Ctrl K', t.keys.palette],
    ['j  k', t.keys.move],
    ['p', t.keys.pause],
    ['t', t.keys.theme],
    ['?', t.keys.help],
    ...PAGES.map((page): [string, string] => [`g ${page.key}`, t.nav[page.name]]),
  ];
  return (
    <Dialog title={t.keys.title} close={close}>
      <dl className="facts" style={{ gridTemplateColumns: '80px 1fr' }}>
        {keys.map(([key, told]) => (
          <div key={key} style={{ display: 'contents' }}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{told}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
