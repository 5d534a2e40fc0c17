// Loading the addon when something is wrong with it: NATIVE_LOAD with the cause and the remedies, and a doctor that still works.
// Each case runs dist/ in a folder whose build/Release is spoilt in one way.

import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const repository = path.resolve(import.meta.dirname, '../..');
const release = path.join(repository, 'build/Release');
let tree: string;
let spoilt: string;

beforeEach(() => {
  tree = mkdtempSync(path.join(os.tmpdir(), 'stepward-load-'));
  spoilt = path.join(tree, 'build/Release');
  cpSync(path.join(repository, 'dist'), path.join(tree, 'dist'), { recursive: true });
  copyFileSync(path.join(repository, 'package.json'), path.join(tree, 'package.json'));
  symlinkSync(path.join(repository, 'node_modules'), path.join(tree, 'node_modules'));
  mkdirSync(spoilt, { recursive: true });
});

afterEach(() => rmSync(tree, { recursive: true, force: true }));

function copyAddon(): void {
  copyFileSync(path.join(release, 'stepward.node'), path.join(spoilt, 'stepward.node'));
}

/** Loads the addon twice in a child; the two errors, as `code: message`, or the addon's version. */
function load(): string[] {
  const script = `
    import { loadAddon } from ${JSON.stringify(path.join(tree, 'dist/native/load.js'))};
    const attempt = () => {
      try { return loadAddon().systemInfo().version; } catch (error) { return error.code + ': ' + error.message; }
    };
    console.log(JSON.stringify([attempt(), attempt()]));`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout);
}

function doctor(): { status: number | null; report: { problems: { problem: string; remedies: string[] }[] } } {
  const cli = path.join(tree, 'dist/cli.js');
  const { status, stdout } = spawnSync(process.execPath, [cli, 'doctor', '--json'], { encoding: 'utf8' });
  return { status, report: JSON.parse(stdout.trim().split('\n').at(-1) ?? '') };
}

describe('the addon', () => {
  it('is not built', () => {
    const [first, second] = load();
    expect(first).toContain('NATIVE_LOAD: the native addon is not built (expected');
    expect(first).toContain('npm run setup');
    expect(second).toBe(first);
  });

  it('is not a library', () => {
    writeFileSync(path.join(spoilt, 'stepward.node'), 'not a library');
    symlinkSync(realpathSync(path.join(release, 'libtorch')), path.join(spoilt, 'libtorch'));
    const [first] = load();
    expect(first).toContain('NATIVE_LOAD: the native addon could not be loaded:');
    expect(first).toContain('rm -rf build');
  });

  it('was built for another version of the package', () => {
    copyAddon();
    symlinkSync(realpathSync(path.join(release, 'libtorch')), path.join(spoilt, 'libtorch'));
    writeFileSync(
      path.join(tree, 'package.json'),
      JSON.stringify({ name: 'stepward', version: '9.9.9', type: 'module' }),
    );
    const [first] = load();
    expect(first).toMatch(/^NATIVE_LOAD: the native addon was built for Stepward \d+\.\d+\.\d+, but this is 9\.9\.9/);
  });

  it('loads from a folder that was moved', () => {
    copyAddon();
    symlinkSync(realpathSync(path.join(release, 'libtorch')), path.join(spoilt, 'libtorch'));
    const [first, second] = load();
    expect(first).toMatch(/^\d+\.\d+\.\d+$/);
    expect(second).toBe(first);
  });
});

describe('libtorch', () => {
  it('is gone', () => {
    copyAddon();
    symlinkSync(path.join(tree, 'nowhere'), path.join(spoilt, 'libtorch'));
    const [first] = load();
    expect(first).toContain('NATIVE_LOAD: the libtorch that the native addon was built with is gone');
    expect(first).toContain('LIBTORCH=/path/to/libtorch npm run setup');
  });

  it('is another one: loading fails at once instead of a call later', () => {
    copyAddon();
    mkdirSync(path.join(spoilt, 'libtorch/lib'), { recursive: true });
    const empty = spawnSync('c++', [
      '-shared',
      '-x',
      'c++',
      '/dev/null',
      '-o',
      path.join(spoilt, 'libtorch/lib/libtorch_cpu.so'),
    ]);
    expect(empty.status).toBe(0);
    const c10 = path.join(realpathSync(path.join(release, 'libtorch')), 'lib/libc10.so');
    symlinkSync(c10, path.join(spoilt, 'libtorch/lib/libc10.so'));
    const [first] = load();
    expect(first).toMatch(/NATIVE_LOAD: the native addon could not be loaded: .*undefined symbol/);
  });
});

describe('doctor', () => {
  it('works without the addon, names the problem and exits with 1', () => {
    const { status, report } = doctor();
    expect(report.problems[0]?.problem).toContain('the native addon is not built');
    expect(report.problems[0]?.remedies).toEqual([`in ${tree}: npm run setup`]);
    expect(status).toBe(1);
  });

  it('finds nothing wrong with the built tree', () => {
    copyAddon();
    symlinkSync(realpathSync(path.join(release, 'libtorch')), path.join(spoilt, 'libtorch'));
    const { status, report } = doctor();
    expect(report.problems).toEqual([]);
    expect(status).toBe(0);
  });
});
