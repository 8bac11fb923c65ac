import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [react(), tailwindcss()],
  build: {
    outDir: "../python/pxbridge/console/static",
    emptyOutDir: true,
    target: ["chrome110", "firefox130", "safari17"],
    sourcemap: false,
    // The content policy forbids data: URLs of scripts, and small files cost little by themselves.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  worker: { format: "es" },
  server: {
    // `npm run dev` beside a running bridge.
    proxy: { "/api": { target: "http://127.0.0.1:5051", ws: true } },
  },
  test: { include: ["src/**/*.test.ts"] },
});
