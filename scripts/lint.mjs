// `npm run lint`: Biome, the TypeScript compiler, clang-format, and the contract check. `--fix` writes the layout instead.
// clang-format is fetched from PyPI into .deps/, one fixed version: its layout differs between versions.

import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { capture, main, root, run, say } from './lib/machine.mjs';
import { fetchTool, privateTools } from './lib/tools.mjs';

const CLANG_FORMAT = '23.1.1';
const require = createRequire(import.meta.url);
const fix = process.argv.includes('--fix');

function packageFile(name, file) {
  return path.join(path.dirname(require.resolve(`${name}/package.json`)), file);
}

async function findClangFormat() {
  const candidates = ['clang-format', path.join(privateTools, 'clang_format/data/bin/clang-format')];
  const right = () => candidates.find((file) => capture(file, ['--version'])?.includes(`version ${CLANG_FORMAT}`));
  return right() ?? ((await fetchTool(`clang-format==${CLANG_FORMAT}`)) ? right() : undefined);
}

function nativeSources() {
  const folders = ['include/stepward', 'core', 'kernels', 'addon', 'test', 'test/helpers', 'bench'];
  return folders
    .map((folder) => path.join(root, 'native', folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((name) => path.join(folder, name)))
    .filter((file) => /\.(h|cpp|cu|cuh)$/.test(file));
}

const checks = {
  biome: () =>
    run(process.execPath, [packageFile('@biomejs/biome', 'bin/biome'), 'check', ...(fix ? ['--write'] : [])]),
  typescript: () => run(process.execPath, [packageFile('typescript', 'bin/tsc'), '--noEmit', '-p', 'tsconfig.json']),
  'clang-format': async () => {
    const clangFormat = await findClangFormat();
    if (!clangFormat) {
      say(
        `clang-format ${CLANG_FORMAT} is not on this machine and could not be fetched with pip: the C++ layout is not checked`,
      );
      return 0;
    }
    return run(clangFormat, [...(fix ? ['-i'] : ['--dry-run', '--Werror']), ...nativeSources()]);
  },
  contract: () => run(process.execPath, [path.join(root, 'scripts/check-contract.mjs')]),
};

await main(async () => {
  const failed = [];
  for (const [name, check] of Object.entries(checks)) {
    if ((await check()) !== 0) failed.push(name);
  }
  say(failed.length === 0 ? 'lint passed' : `lint failed: ${failed.join(', ')}`);
  return failed.length === 0 ? 0 : 1;
});
