// The set-up does a step again when, and only when, something it was made from has changed.
// Runs the real scripts in a copy of the tree with a CMake that only writes down that it was called.

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';

const repository = path.resolve(import.meta.dirname, '../..');
const libtorch = path.join(repository, 'build/Release/libtorch');
let tree: string;

function program(name: string, body: string): void {
  writeFileSync(path.join(tree, 'bin', name), `#!/bin/sh\n${body}\n`);
  chmodSync(path.join(tree, 'bin', name), 0o755);
}

beforeEach(() => {
  tree = mkdtempSync(path.join(os.tmpdir(), 'stepward-stamps-'));
  for (const name of ['package.json', 'scripts', 'native/package.json']) {
    cpSync(path.join(repository, name), path.join(tree, name), { recursive: true });
  }
  symlinkSync(path.join(repository, 'node_modules'), path.join(tree, 'node_modules'));
  for (const folder of ['bin', 'dist', 'native/core', 'native/test', 'build/Release']) {
    mkdirSync(path.join(tree, folder), { recursive: true });
  }
  // As in an installed package: dist/ is there and src/ is not.
  writeFileSync(path.join(tree, 'dist/cli.js'), '');
  for (const name of ['CMakeLists.txt', 'core/model.cpp', 'test/model_test.cpp']) {
    writeFileSync(path.join(tree, 'native', name), 'first');
  }
  program('g++', "echo '#define __GNUC__ 12'");
  program('make', 'exit 0');
  program(
    'cmake',
    `case "$1" in --version) echo 'cmake version 3.28.1';; --build) echo "$@" >> ${tree}/builds; : > ${tree}/build/Release/stepward.node;; esac`,
  );
});

afterEach(() => rmSync(tree, { recursive: true, force: true }));

/** Runs the set-up and returns how many builds there have been, and what it said. */
function setup(...args: string[]): { builds: number; stderr: string } {
  const { status, stderr } = spawnSync(process.execPath, [path.join(tree, 'scripts/setup.mjs'), ...args], {
    encoding: 'utf8',
    env: {
      PATH: `${path.join(tree, 'bin')}:/usr/bin:/bin`,
      HOME: tree,
      LIBTORCH: realpathSync(libtorch),
      CXX: path.join(tree, 'bin/g++'),
    },
  });
  if (status !== 0) throw new Error(stderr);
  const log = path.join(tree, 'builds');
  return { builds: existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n').length : 0, stderr };
}

it('builds once, then says and does nothing', () => {
  expect(setup().builds).toBe(1);
  expect(setup()).toEqual({ builds: 1, stderr: '' });
});

it('builds again when a source of the addon has changed, whatever its time says', () => {
  setup();
  writeFileSync(path.join(tree, 'native/core/model.cpp'), 'second');
  expect(setup().builds).toBe(2);
  expect(setup().builds).toBe(2);
  writeFileSync(path.join(tree, 'native/core/model.cpp'), 'second');
  expect(setup().builds).toBe(2);
});

it('builds again when the addon is gone or CUDA is asked for', () => {
  setup();
  rmSync(path.join(tree, 'build/Release/stepward.node'));
  expect(setup().builds).toBe(2);
  expect(setup('--cuda', 'off').builds).toBe(3);
  expect(setup().builds, 'the choice holds').toBe(3);
});

it('the sources of the tests matter to the tests alone', () => {
  setup();
  writeFileSync(path.join(tree, 'native/test/model_test.cpp'), 'second');
  expect(setup().builds).toBe(1);
  expect(setup('--tests').builds).toBe(2);
  expect(setup('--tests').builds).toBe(2);
  writeFileSync(path.join(tree, 'native/test/model_test.cpp'), 'third');
  expect(setup().builds).toBe(2);
  expect(setup('--tests').builds).toBe(3);
});

it('does not take a failed build for a good one', () => {
  program('cmake', `case "$1" in --version) echo 'cmake version 3.28.1';; *) exit 1;; esac`);
  expect(() => setup()).toThrow('the native build failed');
  expect(() => setup()).toThrow('the native build failed');
});
