// The documentation against the code: every recipe key with its default, the examples, the error table, the commands, and
// the paths that the README names. The files of a run are in docs-files.test.ts.

import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { describe, expect, it, vi } from 'vitest';
import { parse } from 'yaml';
import { z } from 'zod';
import { registerEval } from '../../src/commands/eval.js';
import { registerGenerate } from '../../src/commands/generate.js';
import { registerJudge } from '../../src/commands/judge.js';
import { runProgram } from '../../src/commands/program.js';
import { registerScore } from '../../src/commands/score.js';
import { registerSearch } from '../../src/commands/search.js';
import { addModelOptions } from '../../src/commands/shared.js';
import { parseRecipe } from '../../src/config/load.js';
import { recipeSchema } from '../../src/config/recipe.js';
import { eftSource, iftSource, problemSource } from '../../src/config/sources.js';
import { ERROR_TABLE } from '../../src/errors.js';
import { labelledPairsOf, readEft, readIft } from '../../src/loop/example-records.js';
import { readProblems } from '../../src/loop/records.js';
import { block, codes, readPage, repository, rows, section } from '../helpers/markdown.js';

interface Key {
  required: boolean;
  /** undefined: absent unless given. */
  standard: unknown;
  choices: string[];
}

/** Every key below a schema by its dotted name. Keys of the data sources stand under SOURCE, once for all of them. */
function keysOf(schema: z.core.$ZodType, prefix = '', into = new Map<string, Key>()): Map<string, Key> {
  const sources: readonly z.core.$ZodType[] = [problemSource, iftSource, eftSource];
  const inner = unwrap(schema);
  if (sources.includes(inner) && !prefix.startsWith('SOURCE')) return keysOf(inner, 'SOURCE', into);
  if (inner instanceof z.ZodUnion) for (const option of inner.options) keysOf(option as z.core.$ZodType, prefix, into);
  if (!(inner instanceof z.ZodObject)) return into;
  for (const [name, child] of Object.entries(inner.shape as Record<string, z.ZodType>)) {
    const path = prefix === '' ? name : `${prefix}.${name}`;
    const leaf = unwrap(child);
    const empty = child.safeParse(undefined);
    // A section that is there anyway needs no row of its own: its keys have theirs.
    const always = leaf instanceof z.ZodObject && empty.success && empty.data !== undefined;
    if (!always) {
      into.set(path, {
        required: !empty.success,
        standard: empty.data,
        choices: leaf instanceof z.ZodEnum ? leaf.options.map(String) : [],
      });
    }
    keysOf(child, path, into);
  }
  return into;
}

function unwrap(schema: z.core.$ZodType): z.core.$ZodType {
  let inner = schema;
  while (
    inner instanceof z.ZodDefault ||
    inner instanceof z.ZodPrefault ||
    inner instanceof z.ZodOptional ||
    inner instanceof z.ZodPipe
  ) {
    inner = (inner instanceof z.ZodPipe ? inner.in : inner.unwrap()) as z.core.$ZodType;
  }
  return inner;
}

describe('docs/recipe.md', () => {
  const page = readPage('docs/recipe.md');
  const keys = keysOf(recipeSchema);
  const table = rows(page).filter((cells) => cells.length === 4 && /^`[\w.]+`(, `[\w.]+`)*$/.test(cells[0] as string));
  const documented = new Map(table.flatMap((cells) => codes(cells[0] as string).map((name) => [name, cells] as const)));

  it('has a row for every key of recipe and format, and for no other', () => {
    expect(keys.size).toBeGreaterThan(80);
    expect([...documented.keys()].sort()).toEqual([...keys.keys()].sort());
  });

  it.each([...keys])('gives the default and the choices of %s', (name, { required, standard, choices }) => {
    const [, values = '', cell = ''] = documented.get(name) ?? [];
    if (required) expect(cell).toBe('*required*');
    else if (standard === undefined) expect(cell).toBe('–');
    else if (cell.startsWith('[below]')) {
      const anchor = /\(#(.*)\)/.exec(cell) as RegExpExecArray;
      expect(block(page, String(anchor[1]).replaceAll('-', '.'))).toBe(standard);
    } else expect(parse(codes(cell)[0] as string)).toEqual(standard);
    for (const choice of choices) expect(codes(values)).toContain(choice);
  });

  it('has an example that is a recipe', () => {
    expect(parseRecipe(block(page, 'A complete example'), '/recipes/math.yaml')).toMatchObject({ name: 'math' });
  });

  it('has lines of data that are read', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'stepward-docs-'));
    const file = (heading: string) => {
      const path = join(folder, `${heading.replace(/\W/g, '')}.jsonl`);
      writeFileSync(path, block(page.slice(page.indexOf('## Data files')), heading));
      return path;
    };
    try {
      expect((await readProblems(file('Problems'), true)).answers.get('p1')).toBe('300');
      expect((await readIft(file('IFT: demonstrations'), '\n'))[0]?.record.steps).toHaveLength(2);
      const eft = file('EFT: judgements');
      expect((await readEft(eft, { a: '[[A]]', b: '[[B]]' }))[0]?.record.label).toBe('b');
      expect(await labelledPairsOf({ file: eft })).toHaveLength(1);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

describe('docs/commands.md', () => {
  const page = readPage('docs/commands.md');
  const optionsOf = (register: (program: Command) => void) => {
    const program = new Command();
    register(program);
    return program.commands[0]?.options ?? [];
  };

  it('names every option of search', () => {
    const common = [...addModelOptions(new Command()).options.map(({ long }) => long), '--input', '--output'];
    const own = optionsOf(registerSearch).flatMap(({ long }) => (long && !common.includes(long) ? [long] : []));
    expect(own.length).toBeGreaterThan(25);
    const named = new Set([...page.matchAll(/--[a-z-]+/g)].map(([option]) => option));
    expect(own.filter((option) => !named.has(option))).toEqual([]);
  });

  it('gives the budget for keys and values of the five commands that have one', () => {
    expect(page).toContain('`--kv-budget-mib N` (default 2048)');
    for (const register of [registerScore, registerGenerate, registerSearch, registerJudge, registerEval]) {
      const option = optionsOf(register).find(({ long }) => long === '--kv-budget-mib');
      expect(option?.defaultValue).toBe(2048);
    }
  });
});

describe('ARCHITECTURE.md', () => {
  it('has the error table', () => {
    const written = rows(section(readPage('ARCHITECTURE.md'), 'Errors')).filter(([code]) => code?.startsWith('`'));
    const errors = Object.entries(ERROR_TABLE).map(([code, [exit, meaning]]) => [`\`${code}\``, String(exit), meaning]);
    expect(written).toEqual(errors);
  });
});

describe('README.md', () => {
  const page = readPage('README.md');

  it('has a row for every command', async () => {
    let help = '';
    const stdout = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      help += String(text);
      return true;
    });
    try {
      await runProgram(['--help']);
    } finally {
      stdout.mockRestore();
    }
    const list = help.slice(help.indexOf('Commands:'));
    const commands = [...list.matchAll(/^ {2}([a-z]+) /gm)].map((match) => match[1] as string);
    const written = rows(section(page, 'Commands')).flatMap(([name = '']) =>
      codes(name).map((code) => code.split(' ')[0]),
    );
    expect(commands).toContain('train');
    expect(written.sort()).toEqual(commands.filter((name) => name !== 'help').sort());
  });

  it('names only paths that exist', () => {
    const paths = treePaths(/```\n([\s\S]*?)```/.exec(section(page, 'Where things are'))?.[1] ?? '');
    expect(paths.length).toBeGreaterThan(30);
    expect(paths.filter((path) => !existsSync(new URL(path, repository)))).toEqual([]);
    const links = [...page.matchAll(/\]\(([^)#:]+)\)/g)].map((match) => match[1] as string);
    expect(links.filter((path) => !existsSync(new URL(path, repository)))).toEqual([]);
  });
});

/** Paths of an indented file tree; what follows them on a line is its description. */
function treePaths(tree: string): string[] {
  let folder = '';
  return tree.split('\n').flatMap((line) => {
    const nested = line.startsWith('  ');
    const words = line.trim().split(/\s+/);
    const end = words.findIndex((word) => !/^([\w.-]+\/|[\w-]+\.\w+|LICENSE)$/.test(word));
    const names = words.slice(0, end < 0 ? words.length : end);
    if (!nested) folder = names.length === 1 && names[0]?.endsWith('/') ? names[0] : '';
    return names.map((name) => (nested ? folder + name : name));
  });
}
