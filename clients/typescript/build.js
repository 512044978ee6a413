// Builds what is published: dist/esm and dist/cjs with types, the one file that the demo page of `carillon dev`
// serves, and the reference of what is exported.

import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { writeReference } from "./reference.js";

const here = import.meta.dirname;
const dist = join(here, "dist");
export const PAGE_FILE = join(here, "../../carillon/page/carillon.js");

const shared = {
  absWorkingDir: here,
  bundle: true,
  target: "es2022",
  legalComments: "none",
  packages: "external",
  // An entry finds another one as users do, so that there is one client on a page.
  external: ["@carillon/client"],
};

/**
 * Names that only the SDK itself uses are shortened. All others keep theirs: frames, options, what is exported, and what
 * belongs to the platform. A name like `done` must never be among them: every reader and iterator of the platform has it.
 */
const small = {
  minify: true,
  sourcemap: true,
  mangleProps: /^_|^is[A-Z]|^on[A-Z]|^(inDoubtSince|settleKey|again|atOnce|attempt|renewable|renewInMs|pump)$/,
  reserveProps: /^onLine$/,
};

export async function buildPackage() {
  rmSync(dist, { recursive: true, force: true });
  const entryPoints = ["src/index.ts", "src/react.ts"];
  await build({ ...shared, ...small, entryPoints, format: "esm", outdir: "dist/esm", splitting: true, chunkNames: "[name]-[hash]" });
  await build({ ...shared, ...small, entryPoints, format: "cjs", outdir: "dist/cjs", platform: "node" });
  execFileSync(process.execPath, [join(here, "node_modules/typescript/bin/tsc"), "--project", here], { stdio: "inherit" });
  for (const name of readdirSync(join(dist, "esm"))) if (name.endsWith(".d.ts")) cpSync(join(dist, "esm", name), join(dist, "cjs", name));
  writeFileSync(join(dist, "cjs/package.json"), '{ "type": "commonjs" }\n');
}

/** The page's file, as text: everything in one, readable, since it is part of the repository. */
export async function buildPageFile() {
  const { outputFiles } = await build({ ...shared, entryPoints: ["src/index.ts"], format: "esm", write: false, charset: "utf8" });
  return `// Built from clients/typescript by its build.js; do not edit.\n${outputFiles[0].text}`;
}

if (process.argv[1] === import.meta.filename) {
  await buildPackage();
  const text = await buildPageFile();
  if (readFileSync(PAGE_FILE, { encoding: "utf8", flag: "a+" }) !== text) writeFileSync(PAGE_FILE, text);
  writeReference();
}
