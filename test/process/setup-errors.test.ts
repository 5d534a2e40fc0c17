// The set-up on machines where something is missing: it must name what, and every way to mend it, with exit code 2.
// Each case runs the real scripts in a copy of the tree, with a PATH that holds only what the case allows.

import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const repository = path.resolve(import.meta.dirname, '../..');
let tree: string;

beforeEach(() => {
  tree = mkdtempSync(path.join(os.tmpdir(), 'stepward-setup-'));
  for (const name of ['package.json', 'scripts']) {
    cpSync(path.join(repository, name), path.join(tree, name), { recursive: true });
  }
  symlinkSync(path.join(repository, 'node_modules'), path.join(tree, 'node_modules'));
  mkdirSync(path.join(tree, 'bin'));
});

afterEach(() => rmSync(tree, { recursive: true, force: true }));

/** Puts a shell script with this body on the PATH of the case. */
function program(name: string, body: string): void {
  const file = path.join(tree, 'bin', name);
  writeFileSync(file, `#!/bin/sh\n${body}\n`);
  chmodSync(file, 0o755);
}

const goodCompiler = () => program('g++', "echo '#define __GNUC__ 12'");
const goodCMake = () => program('cmake', "echo 'cmake version 3.28.1'");
const goodMake = () => program('make', 'exit 0');

function setup(env: Record<string, string> = {}): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync(process.execPath, [path.join(tree, 'scripts/setup.mjs')], {
    encoding: 'utf8',
    env: { PATH: path.join(tree, 'bin'), HOME: tree, ...env },
  });
  return { status, stderr };
}

/** A torch folder that looks like this version. */
function fakeTorch(version: string): string {
  const torch = path.join(tree, 'torch');
  const [major, minor, patch] = version.split('.');
  mkdirSync(path.join(torch, 'lib'), { recursive: true });
  mkdirSync(path.join(torch, 'include/torch/headeronly'), { recursive: true });
  writeFileSync(path.join(torch, 'lib/libtorch_cpu.so'), '');
  writeFileSync(path.join(torch, 'lib/libtorch.so'), 'not a library');
  writeFileSync(
    path.join(torch, 'include/torch/headeronly/version.h'),
    `#define TORCH_VERSION_MAJOR ${major}\n#define TORCH_VERSION_MINOR ${minor}\n#define TORCH_VERSION_PATCH ${patch}\n`,
  );
  return torch;
}

it('names the packages', () => {
  rmSync(path.join(tree, 'node_modules'));
  const { status, stderr } = setup();
  expect(stderr).toMatch(/the packages of \S+package\.json are not installed. To mend it:\n {2}- npm ci/);
  expect(status).toBe(2);
});

describe('a missing tool', () => {
  it('names the compiler', () => {
    const { status, stderr } = setup();
    expect(stderr).toContain('no C++20 compiler');
    expect(stderr).toContain('looked for c++, g++, clang++ on PATH');
    expect(stderr).toContain('sudo apt install g++');
    expect(stderr).toContain('sudo dnf install gcc-c++');
    expect(status).toBe(2);
  });

  it('tells an old compiler from none', () => {
    program('g++', "echo '#define __GNUC__ 9'");
    const { status, stderr } = setup();
    expect(stderr).toMatch(/expected gcc 11 or newer.*bin\/g\+\+ is gcc 9/);
    expect(status).toBe(2);
  });

  it('looks only at CXX when it is set', () => {
    goodCompiler();
    const { status, stderr } = setup({ CXX: 'my-compiler' });
    expect(stderr).toContain('looked for my-compiler on PATH');
    expect(status).toBe(2);
  });

  it('names CMake', () => {
    goodCompiler();
    const { status, stderr } = setup();
    expect(stderr).toMatch(/no CMake \(expected 3\.22 or newer; there is none on PATH/);
    expect(stderr).toContain('python3 -m pip install cmake');
    expect(status).toBe(2);
  });

  it('tells an old CMake from none', () => {
    goodCompiler();
    program('cmake', "echo 'cmake version 3.16.3'");
    const { status, stderr } = setup();
    expect(stderr).toMatch(/no CMake \(expected 3\.22 or newer; \S+bin\/cmake is older/);
    expect(status).toBe(2);
  });

  it('names Ninja and make', () => {
    goodCompiler();
    goodCMake();
    const { status, stderr } = setup();
    expect(stderr).toContain('no Ninja and no make');
    expect(stderr).toContain('sudo apt install ninja-build');
    expect(status).toBe(2);
  });
});

describe('a missing libtorch', () => {
  beforeEach(() => {
    goodCompiler();
    goodCMake();
    goodMake();
  });

  const otherWays = ['pip install torch==2.13.0', 'LIBTORCH=/path/to/libtorch npm run setup'];

  it('names Python', () => {
    const { status, stderr } = setup();
    expect(stderr).toContain('no libtorch, and no Python (3.8 or newer)');
    for (const way of ['sudo apt install python3 python3-pip', ...otherWays]) expect(stderr).toContain(way);
    expect(status).toBe(2);
  });

  it('names pip', () => {
    program('python3', 'case "$2" in *version_info*) echo "3 11";; *) exit 1;; esac');
    const { status, stderr } = setup();
    expect(stderr).toMatch(/no libtorch, and \S+bin\/python3 has no pip/);
    for (const way of ['sudo apt install python3-pip', ...otherWays]) expect(stderr).toContain(way);
    expect(status).toBe(2);
  });

  it('lists every wheel that could not be fetched', () => {
    program(
      'python3',
      'case "$*" in *version_info*) echo "3 11";; "-m pip --version") echo "pip 24";; *download*) exit 1;; *) echo;; esac',
    );
    const { status, stderr } = setup();
    expect(stderr).toContain('libtorch could not be fetched');
    expect(stderr).toContain('torch==2.13.0+cpu: pip found no wheel');
    expect(stderr).toContain('torch==2.13.0+cpu from https://download.pytorch.org/whl/cpu: pip found no wheel');
    expect(stderr).toContain('torch==2.13.0: pip found no wheel');
    for (const way of ['mend the connection to PyPI', ...otherWays]) expect(stderr).toContain(way);
    expect(status).toBe(2);
  });
});

describe('a libtorch that cannot be used', () => {
  beforeEach(() => {
    goodCompiler();
    goodCMake();
    goodMake();
  });

  it('LIBTORCH is not a folder', () => {
    const { status, stderr } = setup({ LIBTORCH: '/nowhere/libtorch' });
    expect(stderr).toContain('LIBTORCH=/nowhere/libtorch cannot be used: there is no such folder');
    expect(stderr).toContain('unset LIBTORCH');
    expect(status).toBe(2);
  });

  it('LIBTORCH has another version', () => {
    const { status, stderr } = setup({ LIBTORCH: fakeTorch('2.5.1') });
    expect(stderr).toContain('it is version 2.5.1; expected 2.11 up to, not including, 2.15');
    expect(status).toBe(2);
  });

  it('LIBTORCH cannot be loaded', () => {
    const { status, stderr } = setup({ LIBTORCH: fakeTorch('2.13.0') });
    expect(stderr).toMatch(/libtorch in \S+ \(LIBTORCH\) cannot be loaded: .*libtorch\.so/);
    expect(status).toBe(2);
  });

  it("the active Python's torch has another version: it is passed over, and that is said", () => {
    const torch = fakeTorch('2.5.1');
    program('python3', `case "$2" in *version_info*) echo "3 11";; *find_spec*) echo ${torch};; *) exit 1;; esac`);
    const { status, stderr } = setup();
    expect(stderr).toMatch(/not used: the active Python's torch, \S+: it is version 2\.5\.1/);
    expect(stderr).toContain('has no pip');
    expect(status).toBe(2);
  });
});

it('does not wait for a set-up that was killed', () => {
  const dead = spawnSync(process.execPath, ['-e', 'process.stdout.write(String(process.pid))'], { encoding: 'utf8' });
  mkdirSync(path.join(tree, '.deps'));
  writeFileSync(path.join(tree, '.deps/setup.lock'), dead.stdout);
  const { status, stderr } = setup();
  expect(stderr).not.toContain('waiting');
  expect(stderr).toContain('no C++20 compiler');
  expect(status).toBe(2);
});
