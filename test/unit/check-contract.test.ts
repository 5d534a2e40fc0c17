// scripts/check-contract.mjs: the repository passes, and each kind of drift is seen.

import { describe, expect, it } from 'vitest';

interface Check {
  problems(): string[];
  nativeErrors(text: string): Record<string, [number, string]>;
  typescriptErrors(text: string): Record<string, [number, string]>;
  exportedNames(text: string): string[];
  contractNames(text: string): string[];
  differences(left: string[], leftFile: string, right: string[], rightFile: string): string[];
}
const script = new URL('../../scripts/check-contract.mjs', import.meta.url).href;
const check = (await import(script)) as Check;

describe('check-contract', () => {
  it('finds the two sides of the boundary equal', () => {
    expect(check.problems()).toEqual([]);
  });

  it('reads both error tables', () => {
    const table = { BAD: [2, "it's bad"], WORSE: [1, 'much worse'] };
    expect(
      check.nativeErrors(
        '// STEPWARD_ERROR(NAME)\nSTEPWARD_ERROR(BAD, 2, "it\'s bad")\nSTEPWARD_ERROR(WORSE, 1, "much worse")',
      ),
    ).toEqual(table);
    expect(check.typescriptErrors(`ERROR_TABLE = {\n BAD: [2, "it's bad"],\n WORSE: [1, 'much worse'],\n}`)).toEqual(
      table,
    );
  });

  it('reads method names whatever their types look like', () => {
    const contract = `export interface NativeAddon {
      /** open(); */
      open(options: { a: number; b(): void }, done?: (n: number) => void): Promise<{ x: number }>;
      close(handle: Handle): void; // shut(): void;
    }
    interface Other { third(): void; }`;
    expect(check.contractNames(contract)).toEqual(['open', 'close']);
    const module =
      'set<promises<open>>(exports, "open");\n  // set<returns<gone>>(exports, "gone");\n  set<returns<close>>(exports, "close");';
    expect(check.exportedNames(module)).toEqual(['open', 'close']);
  });

  it('tells which side lacks a name', () => {
    expect(check.differences(['a', 'b'], 'left', ['b', 'c'], 'right')).toEqual([
      'a is in left, not in right',
      'c is in right, not in left',
    ]);
  });
});
