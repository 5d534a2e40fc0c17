// `npm test`: set-up, the native ctest programs, then vitest. The last line of the output is 'N passed, N failed' over both.
// Arguments go to vitest: `npm test -- test/unit`.

import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { main, root, run, SetupError, say, which } from './lib/machine.mjs';
import { findCMake } from './lib/tools.mjs';
import { setup } from './setup.mjs';

const require = createRequire(import.meta.url);
const results = path.join(root, 'build/test-results');

/** { passed, failed } of the native programs. */
async function runCtest() {
  const report = path.join(results, 'ctest.xml');
  const cmake = await findCMake();
  const beside = path.join(path.dirname(cmake), 'ctest');
  const ctest = existsSync(beside) ? beside : which('ctest');
  if (!ctest)
    throw new SetupError(`no ctest beside ${cmake}`, [
      'install CMake whole, from your system or with pip install cmake',
    ]);
  // One at a time: each program uses all cores.
  const status = await run(ctest, [
    ...['--test-dir', path.join(root, 'build/native'), '--output-on-failure', '--output-junit', report],
    ...['--no-tests=error', '-j1'],
  ]);
  const suite = existsSync(report) ? readFileSync(report, 'utf8') : '';
  const count = (name) => Number(suite.match(new RegExp(`<testsuite[^>]*\\s${name}="(\\d+)"`))?.[1] ?? 0);
  const failed = count('failures');
  const passed = count('tests') - failed - count('skipped') - count('disabled');
  return settle({ passed, failed }, status);
}

/** { passed, failed } of vitest; a file that cannot be run counts as one failure. */
async function runVitest(args) {
  const report = path.join(results, 'vitest.json');
  const vitest = path.join(path.dirname(require.resolve('vitest/package.json')), 'vitest.mjs');
  const status = await run(process.execPath, [
    ...[vitest, 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`],
    ...args,
  ]);
  if (!existsSync(report)) return settle({ passed: 0, failed: 0 }, status);
  const summary = JSON.parse(readFileSync(report, 'utf8'));
  const brokenFiles = summary.testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  ).length;
  return settle({ passed: summary.numPassedTests, failed: summary.numFailedTests + brokenFiles }, status);
}

// A runner that ends badly without naming a failed test (a crash, an unhandled rejection) is a failure too.
function settle({ passed, failed }, status) {
  return { passed, failed: status !== 0 && failed === 0 ? 1 : failed };
}

await main(async () => {
  await setup({ tests: true });
  rmSync(results, { recursive: true, force: true });
  mkdirSync(results, { recursive: true });
  say('native tests');
  const native = await runCtest();
  say('vitest');
  const script = await runVitest(process.argv.slice(2));
  const passed = native.passed + script.passed;
  const failed = native.failed + script.failed;
  process.stdout.write(`${passed} passed, ${failed} failed\n`);
  return failed === 0 && passed > 0 ? 0 : 1;
});
