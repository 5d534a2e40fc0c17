// Fails when the two halves of the native boundary drift apart: the error table (error_codes.def against src/errors.ts)
// and the addon's exports (module.cpp against the NativeAddon interface). Reads sources only; needs no build.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const read = (file) => readFileSync(path.join(root, file), 'utf8');

const FILES = {
  codes: 'native/include/stepward/error_codes.def',
  errors: 'src/errors.ts',
  module: 'native/addon/module.cpp',
  contract: 'src/native/contract.ts',
};

const withoutComments = (text) => text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/[^\n]*/g, '$1');

/** The text between the brace that follows `opening` and its match. */
function block(text, opening, file) {
  const start = text.indexOf('{', text.indexOf(opening));
  if (!text.includes(opening) || start < 0) throw new Error(`${file}: '${opening}' was not found`);
  let depth = 0;
  for (let i = start; i < text.length; i++) {
    if (text[i] === '{') depth++;
    if (text[i] === '}' && --depth === 0) return text.slice(start + 1, i);
  }
  throw new Error(`${file}: '${opening}' has no closing brace`);
}

/** code -> [exit code, meaning] */
export function nativeErrors(text = read(FILES.codes)) {
  const entries = text.matchAll(/^STEPWARD_ERROR\((\w+),\s*(\d+),\s*"((?:[^"\\]|\\.)*)"\)/gm);
  return Object.fromEntries(Array.from(entries, ([, code, exit, meaning]) => [code, [Number(exit), meaning]]));
}

export function typescriptErrors(text = read(FILES.errors)) {
  const table = block(text, 'ERROR_TABLE =', FILES.errors);
  const entries = table.matchAll(/(\w+):\s*\[\s*(\d+),\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"),?\s*\]/g);
  const plain = (s) => s.replace(/\\(.)/g, '$1');
  return Object.fromEntries(
    Array.from(entries, ([, code, exit, single, double]) => [code, [Number(exit), plain(single ?? double)]]),
  );
}

export function exportedNames(text = read(FILES.module)) {
  return Array.from(withoutComments(text).matchAll(/\bset<[^;]*?>\(exports,\s*"(\w+)"\)/g), ([, name]) => name);
}

/** The method names of NativeAddon: identifiers before '(' at depth 0 of the interface. */
export function contractNames(text = read(FILES.contract)) {
  const body = block(withoutComments(text), 'interface NativeAddon', FILES.contract);
  const names = [];
  let depth = 0;
  for (const [token] of body.matchAll(/\w+|[(){}<>[\]:;,]/g)) {
    if ('({['.includes(token)) depth++;
    else if (')}]'.includes(token)) depth--;
    else if (depth === 0 && /^\w/.test(token)) names.push(token);
    // What follows the parameters is the return type, up to the semicolon.
    if (depth === 0 && token === ';') names.push(';');
  }
  return names.filter((name, i) => name !== ';' && (i === 0 || names[i - 1] === ';'));
}

/** One line per difference between two lists of names. */
export function differences(left, leftFile, right, rightFile) {
  return [
    ...left.filter((name) => !right.includes(name)).map((name) => `${name} is in ${leftFile}, not in ${rightFile}`),
    ...right.filter((name) => !left.includes(name)).map((name) => `${name} is in ${rightFile}, not in ${leftFile}`),
  ];
}

export function problems() {
  const native = nativeErrors();
  const typescript = typescriptErrors();
  const exported = exportedNames();
  const contract = contractNames();
  for (const [list, file] of [
    [Object.keys(native), FILES.codes],
    [Object.keys(typescript), FILES.errors],
    [exported, FILES.module],
    [contract, FILES.contract],
  ]) {
    if (list.length === 0) throw new Error(`${file}: no entries were found; its form has changed`);
  }
  const codes = differences(Object.keys(native), FILES.codes, Object.keys(typescript), FILES.errors);
  const values = Object.keys(native)
    .filter((code) => typescript[code] && JSON.stringify(native[code]) !== JSON.stringify(typescript[code]))
    .map((code) => `${code}: ${FILES.codes} says ${native[code]}, ${FILES.errors} says ${typescript[code]}`);
  return [...codes, ...values, ...differences(exported, FILES.module, contract, FILES.contract)];
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const found = problems();
  for (const problem of found) console.error(`check-contract: ${problem}`);
  process.exitCode = found.length > 0 ? 1 : 0;
}
