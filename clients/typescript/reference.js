// Writes REFERENCE.md: what the package exports, as TypeScript sees it, with the comments of the source.

import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const here = import.meta.dirname;
const types = join(here, "dist/esm");
export const REFERENCE = join(here, "REFERENCE.md");

/** Name → declaration with its comment, of everything that tsc found to be public. Its output is regular: what begins at a margin ends at one. */
function declarations() {
  const found = new Map();
  for (const file of readdirSync(types).filter((name) => name.endsWith(".d.ts"))) {
    const text = readFileSync(join(types, file), "utf8");
    const pattern = /^(?:\/\*\*(?:(?!\*\/)[^])*?\*\/\n)?export (?:declare )?(?:(?:abstract )?(?:class|interface) (\w+)[^]*?^}|(?:type|function|const) (\w+)[^]*?;)$/gm;
    for (const [declaration, shape, other] of text.matchAll(pattern)) found.set(shape ?? other, declaration);
  }
  return found;
}

/** What a reader can't use is left out. */
function readable(declaration) {
  return declaration
    .replace(/^ +(?:#private|private |protected )[^\n]*\n/gm, "")
    .replace(/^export (?:declare )?/m, "")
    .replace(/^    /gm, "  ")
    .replace(/^      ( *)/gm, (spaces) => spaces);
}

const anchor = (name) => name.toLowerCase();

export function makeReference() {
  const all = declarations();
  const exported = (file) => {
    const text = readFileSync(join(here, "src", file), "utf8");
    const listed = [...text.matchAll(/^export (?:type )?\{(.*?)\}/gms)].flatMap(([, names]) => names.split(","));
    const own = [...text.matchAll(/^export (?:abstract )?(?:class|interface|type|function|const) (\w+)/gm)].map(([, name]) => name);
    return [...listed.map((name) => name.replace("type ", "").trim()).filter(Boolean), ...own];
  };
  const section = (entry, file) => {
    const names = exported(file);
    const parts = names.map((name) => {
      if (!all.has(name)) throw new Error(`${file} exports ${name}, whose declaration was not found in ${types}`);
      return `### ${name}\n\n\`\`\`ts\n${readable(all.get(name))}\n\`\`\`\n`;
    });
    return `## ${entry}\n\n${names.map((name) => `[${name}](#${anchor(name)})`).join(" · ")}\n\n${parts.join("\n")}`;
  };
  return [
    "# Reference\n\nAll that `@carillon/client` exports. Made from the types by `npm run build`; do not edit.\n",
    section("@carillon/client", "index.ts"),
    section("@carillon/client/react", "react.ts"),
  ].join("\n");
}

export function writeReference() {
  writeFileSync(REFERENCE, makeReference());
}
