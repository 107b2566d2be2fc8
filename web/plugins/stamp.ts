// What the page was built of, so that a test can tell whether it is out of date: the SHA-256 of every source, in
// the order of their paths, each as its path, a zero, its content and a zero. The protos are not among them: the
// contract only grows, and a page that was built of less of it still works.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "vite";

const FOLDERS = ["web/plugins", "web/public", "web/src"];
const FILES = ["buf.gen.yaml", "index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"];

function digest(top: string): string {
  const hash = createHash("sha256");
  const found = FOLDERS.flatMap((folder) =>
    readdirSync(join(top, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(join(top, "/").length)),
  ).filter((path) => !path.startsWith("web/src/generated/"));
  for (const path of [...found, ...FILES.map((name) => `web/${name}`)].sort()) {
    hash.update(path).update("\0").update(readFileSync(join(top, path))).update("\0");
  }
  return hash.digest("hex");
}

export function stamp(): Plugin {
  return {
    name: "stamp",
    generateBundle() {
      const source = `${digest(join(import.meta.dirname, "../.."))}\n`;
      this.emitFile({ type: "asset", fileName: "sources.sha256", source });
    },
  };
}
