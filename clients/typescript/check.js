// What a change of this package must pass: types, tests, size, the package as others will find it, and that the page's file
// is current. `cargo xtask test` runs it.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { PAGE_FILE, buildPackage, buildPageFile } from "./build.js";

const here = import.meta.dirname;
/** What a page loads that only uses WebSocket. */
const CORE_MAX_BYTES = 6 * 1024;

const failures = [];
const fail = (what) => failures.push(what);
const run = (...args) => execFileSync(process.execPath, args, { cwd: here, stdio: "inherit" });

await buildPackage();
if (readFileSync(PAGE_FILE, "utf8") !== (await buildPageFile())) fail(`${PAGE_FILE} is not what \`npm run build\` in clients/typescript makes: run it`);

run("node_modules/typescript/bin/tsc", "--project", "test");
for (const message of (await publint({ pkgDir: here, strict: true })).messages) fail(formatMessage(message, JSON.parse(readFileSync(join(here, "package.json"), "utf8"))));

/** What of `dist` an app's bundler puts into its page for this import, without what is loaded later. */
async function sizeOf(contents) {
  const { outputFiles, metafile } = await build({
    stdin: { contents, resolveDir: join(here, "test") },
    bundle: true, minify: true, format: "esm", splitting: true, outdir: "out", write: false, metafile: true, external: ["react"], legalComments: "none", logLevel: "error",
  });
  const loaded = new Set(["out/stdin.js"]);
  for (const path of loaded) for (const { path: next, kind } of metafile.outputs[path].imports) if (kind === "import-statement") loaded.add(next);
  const files = outputFiles.filter(({ path }) => [...loaded].some((name) => path.endsWith(name)));
  return files.reduce((bytes, { contents }) => bytes + gzipSync(contents, { level: 9 }).length, 0);
}
const sizes = {
  "the client": await sizeOf('import { Carillon } from "@carillon/client"; globalThis.carillon = Carillon;'),
  "only an error class": await sizeOf('import { CarillonError } from "@carillon/client"; globalThis.error = CarillonError;'),
};
for (const [what, bytes] of Object.entries(sizes)) console.log(`size of ${what}: ${bytes} bytes, gzipped`);
if (sizes["the client"] > CORE_MAX_BYTES) fail(`the client has ${sizes["the client"]} bytes gzipped, more than ${CORE_MAX_BYTES}`);

run("--test", "--test-reporter=spec", "test/");

for (const failure of failures) console.error(`✖ ${failure}`);
process.exitCode = failures.length ? 1 : 0;
