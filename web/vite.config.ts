import react from '@vitejs/plugin-react';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

/** Modules of the pages of a tenant, by their addresses below it; `*` is a name. */
const PAGES = {
  '': 'Overview',
  live: 'Live',
  policies: 'Policies',
  'policies/*': 'Policy',
  names: 'Names',
  rollouts: 'Rollouts',
  'rollouts/*': 'Rollout',
  alerts: 'Alerts',
  budgets: 'Budgets',
  fleet: 'Fleet',
  workloads: 'Workloads',
  audit: 'Audit',
  roles: 'Tenants',
  settings: 'Settings',
};

/** What every page of a tenant has. */
const COMMON =
  /src\/(shell\/(Shell|keys|pages|signOut|Ended)|parts\/(format|hooks|parts|menu)|live\/(shared|useWindow)|text\/language)\.tsx?$|use-computed-color-scheme|useInfiniteQuery/;

/** Writes down which files a page consists of: the control plane tells browsers of them with the page's first byte. */
function pageFiles(): Plugin {
  return {
    name: 'page-files',
    generateBundle(_, bundle) {
      const chunks = Object.values(bundle).filter((each) => each.type === 'chunk');
      const add = (name: string, found: Set<string>) => {
        const chunk = chunks.find((each) => each.fileName === name);
        if (!chunk || found.has(name)) return;
        found.add(name);
        for (const each of chunk.imports) add(each, found);
        for (const each of chunk.viteMetadata?.importedCss ?? []) found.add(each);
      };
      const filesOf = (module: string) => {
        const chunk = chunks.find((each) => each.moduleIds.some((id) => id.endsWith(`/src/${module}.tsx`)));
        if (!chunk) throw new Error(`There is no src/${module}.tsx: change PAGES in vite.config.ts.`);
        const found = new Set<string>();
        add(chunk.fileName, found);
        return found;
      };
      const first = new Set<string>();
      for (const each of chunks) if (each.isEntry) add(each.fileName, first);
      const files = Object.entries(PAGES).map(([path, page]) => {
        const needed = new Set([...filesOf('shell/Shell'), ...filesOf(`pages/${page}`)]);
        return [path, [...needed].filter((each) => !first.has(each)).map((each) => `/${each}`)];
      });
      this.emitFile({ type: 'asset', fileName: 'pages.json', source: JSON.stringify(Object.fromEntries(files)) });
    },
  };
}

export default defineConfig({
  plugins: [react(), pageFiles()],
  build: {
    // Where the control plane looks for it, and what the wheel and the image carry.
    outDir: '../control_plane/web_files',
    emptyOutDir: true,
    // The Content-Security-Policy lets nothing be inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2022',
    reportCompressedSize: false,
    rolldownOptions: {
      output: {
        codeSplitting: {
          // Not a file for each icon that two pages share: each is a request of its own.
          groups: [
            { name: 'common', test: COMMON, priority: 2 },
            { name: 'icons', test: /@tabler/, minShareCount: 2, priority: 1 },
          ],
        },
      },
    },
  },
  server: { proxy: { '/v1': 'http://127.0.0.1:15180', '/api': { target: 'http://127.0.0.1:15180', ws: true } } },
  test: { environment: 'happy-dom', include: ['src/**/*.test.{ts,tsx}'] },
});
