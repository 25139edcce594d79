import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  plugins: [react()],
  build: {
    // Where the control plane looks for it, and what the wheel and the image carry.
    outDir: '../control_plane/web_files',
    emptyOutDir: true,
    // The Content-Security-Policy lets nothing be inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2022',
    reportCompressedSize: false,
  },
  server: { proxy: { '/v1': 'http://127.0.0.1:15180', '/api': { target: 'http://127.0.0.1:15180', ws: true } } },
  test: { environment: 'happy-dom', include: ['src/**/*.test.{ts,tsx}'] },
});
