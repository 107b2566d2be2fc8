import { defineConfig } from "vite";

import { licenses } from "./plugins/licenses.ts";
import { stamp } from "./plugins/stamp.ts";

const target = "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [licenses(), stamp()],
  build: {
    outDir: "../server/endoscope_server/web/static",
    emptyOutDir: true,
    target: ["chrome123", "firefox121", "safari17.5"],
    // A font as a data URL would need a looser policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    // `npm run dev` beside a running server.
    // The server answers to its own pages only.
    proxy: { "/endoscope.v1": { target, changeOrigin: true, headers: { origin: target } } },
  },
});
