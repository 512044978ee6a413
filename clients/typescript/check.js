// What a change of this package must pass: types, tests, size, the package as others will find it, and that the page's file,
// the reference and the figures of the README are current. `cargo xtask test` runs it.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { build } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { PAGE_FILE, buildPackage, buildPageFile } from "./build.js";
import { REFERENCE, makeReference } from "./reference.js";

const here = import.meta.dirname;
/** What a page loads that only uses WebSocket. */
const CORE_MAX_BYTES = 6 * 1024;
/** The README's figures are rounded, and compressors differ a little. */
const FIGURE_OFF_BYTES = 60;

const failures = [];
const fail = (what) => failures.push(what);
const run = (...args) => execFileSync(process.execPath, args, { cwd: here, stdio: "inherit" });

await buildPackage();
if (readFileSync(PAGE_FILE, "utf8") !== (await buildPageFile())) fail(`${PAGE_FILE} is not what \`npm run build\` in clients/typescript makes: run it`);
if (readFileSync(REFERENCE, "utf8") !== makeReference()) fail(`${REFERENCE} is old: run \`npm run build\` in clients/typescript`);

run("node_modules/typescript/bin/tsc", "--project", "test");
for (const message of (await publint({ pkgDir: here, strict: true })).messages) fail(formatMessage(message, JSON.parse(readFileSync(join(here, "package.json"), "utf8"))));

/** Whether compilers of all kinds find the types that belong to what Node and bundlers load. `node10` knows no `exports`, and is history. */
async function checkTypes() {
  const folder = mkdtempSync(join(tmpdir(), "carillon-pack-"));
  execFileSync("npm", ["pack", "--silent", "--pack-destination", folder], { cwd: here });
  const packed = createPackageFromTarballData(readFileSync(join(folder, readdirSync(folder)[0])));
  rmSync(folder, { recursive: true });
  const { types, problems } = await checkPackage(packed);
  if (!types) return fail("the package has no types");
  for (const problem of problems) if (problem.resolutionKind !== "node10") fail(`arethetypeswrong: ${JSON.stringify(problem)}`);
}
await checkTypes();

/** What of `dist` an app's bundler puts into its page for this import, without what is loaded later; and that. */
async function sizesOf(contents) {
  const { outputFiles, metafile } = await build({
    stdin: { contents, resolveDir: join(here, "test") },
    bundle: true, minify: true, format: "esm", splitting: true, outdir: "out", write: false, metafile: true, external: ["react"], legalComments: "none", logLevel: "error",
  });
  const loaded = new Set(["out/stdin.js"]);
  for (const path of loaded) for (const { path: next, kind, external } of metafile.outputs[path].imports) if (kind === "import-statement" && !external) loaded.add(next);
  const bytesOf = (isCounted) => outputFiles.reduce((bytes, { path, contents }) => bytes + (isCounted(path) ? gzipSync(contents, { level: 9 }).length : 0), 0);
  const isLoaded = (path) => [...loaded].some((name) => path.endsWith(name));
  return { atOnce: bytesOf(isLoaded), later: bytesOf((path) => /fallback/.test(path)) };
}
const core = await sizesOf('import { Carillon } from "@carillon/client"; globalThis.carillon = Carillon;');
const hooks = await sizesOf('import { Carillon } from "@carillon/client"; import * as hooks from "@carillon/client/react"; Object.assign(globalThis, { Carillon, hooks });');
const tiny = await sizesOf('import { CarillonError } from "@carillon/client"; globalThis.error = CarillonError;');
const sizes = {
  "the client": core.atOnce,
  "the fallback, where WebSocket is blocked": core.later,
  "the hooks for React": hooks.atOnce - core.atOnce,
  "only `CarillonError`": tiny.atOnce,
};
const readme = readFileSync(join(here, "README.md"), "utf8");
for (const [what, bytes] of Object.entries(sizes)) {
  console.log(`size of ${what}: ${bytes} bytes, gzipped`);
  const [, shown] = new RegExp(`^\\| ${what.replaceAll("`", ".")} \\| ([0-9.]+) KiB`, "m").exec(readme) ?? [];
  if (!(Math.abs(shown * 1024 - bytes) < FIGURE_OFF_BYTES)) fail(`README.md says ${shown} KiB for ${what}, which has ${bytes} bytes: ${(bytes / 1024).toFixed(1)} KiB`);
}
if (core.atOnce > CORE_MAX_BYTES) fail(`the client has ${core.atOnce} bytes gzipped, more than ${CORE_MAX_BYTES}`);

run("--test", "--test-reporter=spec", "test/");

for (const failure of failures) console.error(`✖ ${failure}`);
process.exitCode = failures.length ? 1 : 0;
