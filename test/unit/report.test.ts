// report.html: what it says of a run, that nothing in the run can break out of its text, and that any stage may be missing.

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { writeReport } from '../../src/report/report.js';
import { type Files, runFiles, tree, writeRun } from '../helpers/report-run.js';

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

async function report(files: Files): Promise<string> {
  const directory = writeRun(files);
  folders.push(directory);
  return readFileSync(await writeReport(directory), 'utf8');
}

/** The files of the run without those named. */
function without(...names: RegExp[]): Files {
  return Object.fromEntries(Object.entries(runFiles()).filter(([name]) => !names.some((one) => one.test(name))));
}

const visible = (page: string) =>
  page
    .replace(/<(script|style)>.*?<\/\1>/gs, '')
    .replace(/<[^>]*>/g, ' ')
    .replace(/\s+/g, ' ');

/** Tags are closed in the order in which they were opened. */
function checkNesting(page: string): void {
  const open: string[] = [];
  const body = page.replace(/<(script|style)>.*?<\/\1>/gs, '').replace(/^<!doctype html>/, '');
  for (const [, closing, name, rest] of body.matchAll(/<(\/?)([a-z]+)((?:[^>"]|"[^"]*")*)>/gi)) {
    if (closing) expect(open.pop()).toBe(name);
    else if (!['meta', 'input'].includes(name as string) && !rest?.endsWith('/')) open.push(name as string);
  }
  expect(open).toEqual([]);
}

describe('the report of a whole run', () => {
  it('says which run it is, how its models do and what changed', async () => {
    const text = visible(await report(runFiles()));
    expect(text).toContain('sums ✓ finished');
    expect(text).toContain('cpu, AVX2, 2 threads');
    expect(text).toContain('stepward 0.1.0, node 20.0.0, torch 2.13.0');
    expect(text).toContain('Took 2 min 5 s');
    expect(text).toContain('M2 accuracy 60.0% +10.0 points against M1 6 of 10 held-out problems');
    // Accuracy, interval, change, gained, lost, judge, change, flips, first, pairs, ...
    expect(text).toMatch(/M2 60\.0% 31\.0–83\.0% \+10\.0 2 1 90\.0% 0\.0 10\.0% 40\.0% 2 2\.00 9\.00 9\.0 s/);
    expect(text).toContain('Flips 1 of 3 (33.3%)');
    expect(text).toContain('Without shared prefixes 3,800 (3.8 ×)');
  });

  it('shows trees with candidates, verdicts and choices', async () => {
    const page = await report(runFiles());
    const text = visible(page);
    expect(text).toContain('3 of 3 in M2/search.jsonl');
    expect(text).toContain('Step 1 #1 chosen with 1 win, #2 rejected with 0 wins');
    expect(text).toMatch(/#1 Step 1: right ✓ chosen 1 win 2 samples log-prob −0\.50/);
    expect(text).toContain(
      '#1 against #2 #1 wins in both orders #1 first, #2 second: #1 wins p(first) 90.0% A is right. [[A]]',
    );
    expect(text).toContain('⇄ flip: the one shown first wins both times');
    expect(text).toContain('Answer: 7 , gold answer: 8');
    expect(page).toContain('data-tags="right pairs"');
    expect(page).toContain('data-tags="flips"');
  });

  it('needs nothing but itself', async () => {
    const page = await report(runFiles());
    checkNesting(page);
    expect(page).not.toMatch(/\b(src|href)="(?!#)/);
    expect(page).not.toMatch(/url\(|@import|https?:/);
    const script = /<script>(.*?)<\/script>/s.exec(page)?.[1] as string;
    const hash = createHash('sha256').update(script).digest('base64');
    expect(page).toContain(`default-src &#39;none&#39;`);
    expect(page).toContain(`script-src &#39;sha256-${hash}&#39;`);
    expect(() => new Function(script)).not.toThrow();
  });

  it('is the same bytes for the same run, and the only file written', async () => {
    const [one, two] = [await report(runFiles()), await report(runFiles())];
    expect(two).toBe(one);
    const names = ['M1', 'M2', 'metrics.jsonl', 'report.html', 'run.json'];
    for (const folder of folders) expect(readdirSync(folder).sort()).toEqual(names);
  });
});

describe('text of models', () => {
  const evil = '</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>"\'&\u0000\u0007\ud800';

  it('cannot leave its place, wherever it stands', async () => {
    const made = tree(evil, { problem: evil, solution: evil, answer: evil, gold: evil, correct: false });
    for (const candidate of made.steps[0]?.candidates ?? []) candidate.text = evil;
    for (const verdict of made.steps[0]?.verdicts ?? []) verdict.critique = evil;
    const manifest = { recipe: { name: evil, model: evil }, state: 'failed', reason: evil, versions: { torch: evil } };
    const page = await report({
      ...runFiles(),
      'run.json': JSON.stringify(manifest),
      'M2/search.jsonl': `${JSON.stringify(made)}\n{${evil}`,
    });
    checkNesting(page);
    expect(page.match(/<script/g)).toHaveLength(1);
    expect(page).not.toContain('<img');
    expect([...page].filter((character) => character < '\t' || /\p{Surrogate}/u.test(character))).toEqual([]);
    expect(page).toContain('&lt;script&gt;alert(1)&lt;/script&gt;');
    expect(page).toContain('&quot;&#39;&amp;␀␇\ufffd');
  });

  it('is cut where it is long, so that the page stays small', async () => {
    const long = 'word '.repeat(1000);
    const trees = Array.from({ length: 30 }, (_, i) => {
      const made = tree(`q${i}`, { correct: i % 2 === 0 });
      for (const candidate of made.steps[0]?.candidates ?? []) candidate.text = long;
      for (const verdict of made.steps[0]?.verdicts ?? []) verdict.critique = long;
      made.steps = Array.from({ length: 20 }, () => made.steps[0] as (typeof made.steps)[number]);
      return made;
    });
    const page = await report({
      ...runFiles(),
      'M2/search.jsonl': trees.map((one) => `${JSON.stringify(one)}\n`).join(''),
    });
    expect(page.length).toBeLessThan(500_000);
    expect(page).toContain('more characters)');
    expect(page).toMatch(/\d+ of 30 in M2\/search\.jsonl/);
  });
});

describe('a run that is not whole', () => {
  it('without any file has a report that says so', async () => {
    const page = await report({});
    checkNesting(page);
    expect(visible(page)).toContain('No model was finished in this run.');
  });

  it.each([
    ['evaluation', [/eval\.json|solutions|metrics/]],
    ['search', [/search/]],
    ['update', [/train/]],
    ['summaries', [/search\.json$|train\.json$/]],
    ['last model', [/^M2/]],
    ['manifest', [/run\.json/]],
  ])('does without the %s', async (_, names) => {
    const page = await report(without(...names));
    checkNesting(page);
    expect(page).not.toMatch(/NaN|undefined|Infinity|\[object/);
    expect(visible(page)).toContain('Models');
  });

  it('gives the reason where a guard stopped it', async () => {
    const manifest = { recipe: { name: 'sums' }, state: 'stopped', reason: 'M2: judge accuracy is 51%', times: {} };
    const text = visible(await report({ ...runFiles(), 'run.json': JSON.stringify(manifest) }));
    expect(text).toContain('sums ■ stopped by a guard');
    expect(text).toContain('M2: judge accuracy is 51%');
  });

  it('names what it cannot read and shows the rest', async () => {
    const files = runFiles();
    const page = await report({
      ...files,
      'M1/eval.json': '{"accuracy": 0.',
      'M2/train.jsonl': `${files['M2/train.jsonl']}{"step": 4, "lo`,
      'M2/search.jsonl': `{"id": 3}\n${files['M2/search.jsonl']}`,
    });
    const text = visible(page);
    expect(text).toMatch(/M1\/eval\.json: .*JSON/);
    expect(text).toMatch(/M2\/train\.jsonl:4: expected one JSON value/);
    expect(text).toContain('M2/search.jsonl:1: not a search tree');
    // From metrics.jsonl instead.
    expect(text).toContain('M1 50.0%');
    expect(text).toContain('3 of 3 in M2/search.jsonl');
  });

  it('takes null wherever there was no number', async () => {
    const nulls = (text: string) => text.replace(/:-?\d[\d.e-]*/g, ':null');
    const files = Object.fromEntries(
      Object.entries(runFiles()).map(([name, text]) => [
        name,
        /run\.json|search\.jsonl/.test(name) ? text : nulls(text),
      ]),
    );
    const page = await report(files);
    checkNesting(page);
    expect(page).not.toMatch(/NaN|undefined|\[object/);
    expect(visible(page)).toContain('This run has no values for it.');
  });

  it('shows the SFT of M1 where there was one', async () => {
    const train = [1, 2].map((step) => `${JSON.stringify({ step, loss: 3 / step })}\n`).join('');
    const page = await report({ ...runFiles(), 'M1/train.jsonl': train });
    expect(visible(page)).toContain('SFT loss M1');
    expect(page).toContain('SFT loss. loss: from 3.000 to 1.500.');
    expect(page).toContain('Update loss. loss: from 0.690 to 0.670.');
  });
});
