// Stepward against transformers: the same random model, the same token ids, the same threads, one after the other
// in the same run. Prints the ratio of the medians; times alone mean little. See README.md.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { randomIds } from './lib/random-ids.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    python: { type: 'string', default: process.env.STEPWARD_PYTHON ?? 'python3' },
    shape: { type: 'string', default: 'small' },
    threads: { type: 'string', default: String(Math.min(os.availableParallelism(), 8)) },
    repeat: { type: 'string', default: '3' },
    only: { type: 'string', default: 'score,generate' },
  },
});

const vocabulary = { small: 8000, medium: 49152 }[options.shape];
if (!vocabulary) throw new Error(`--shape: expected small or medium, got ${options.shape}`);
const folder = mkdtempSync(path.join(os.tmpdir(), 'stepward-bench-'));
const model = path.join(folder, 'model');

function write(name, records) {
  const file = path.join(folder, name);
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return file;
}

const lastLine = (text) => JSON.parse(text.trimEnd().split('\n').at(-1));

function peer(...args) {
  const script = path.join(here, 'peers.py');
  return lastLine(
    execFileSync(options.python, [script, ...args.map(String)], { encoding: 'utf8', maxBuffer: 2 ** 28 }),
  );
}

function stepward(...args) {
  const cli = path.join(here, '../dist/cli.js');
  const all = [
    cli,
    ...args,
    '--model',
    model,
    '--device',
    'cpu',
    '--dtype',
    'float32',
    '--threads',
    options.threads,
    '--json',
  ];
  return lastLine(
    execFileSync(process.execPath, all.map(String), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
  );
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** Runs both sides in turn; what each last returned, with its median seconds. */
function compare(label, ours, theirs) {
  const seconds = { ours: [], theirs: [] };
  let last;
  for (let i = 0; i < Number(options.repeat); i++) {
    last = { ours: ours(), theirs: theirs() };
    for (const side of ['ours', 'theirs']) seconds[side].push(last[side].seconds);
  }
  const [own, other] = [median(seconds.ours), median(seconds.theirs)];
  console.log(
    `${label.padEnd(58)} ${own.toFixed(2).padStart(8)} s ${other.toFixed(2).padStart(8)} s ${(other / own).toFixed(2).padStart(7)}x`,
  );
  return last;
}

const read = (file) =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

function benchScore() {
  const ids = randomIds(1, vocabulary);
  const records = Array.from({ length: 16 }, (_, id) => ({
    id,
    prompt_ids: ids(150),
    steps_ids: [ids(60), ids(60)],
    candidates_ids: Array.from({ length: 6 }, () => ids(60)),
  }));
  const input = write('score.jsonl', records);
  const output = path.join(folder, 'scored.jsonl');
  const { theirs } = compare(
    'score: 6 candidates of 60 tokens after 270',
    () => stepward('score', '--input', input, '--output', output),
    () => peer('score', model, input, options.threads),
  );
  const worst = Math.max(
    ...read(output).flatMap((line, i) => line.candidates.map((c, k) => Math.abs(c.logprob - theirs.logprobs[i][k]))),
  );
  console.log(`  largest difference of a candidate's log-prob: ${worst.toExponential(1)}`);
}

function benchGenerate() {
  const ids = randomIds(2, vocabulary);
  for (const batch of [1, 8]) {
    const records = Array.from({ length: batch * 2 }, (_, id) => ({ id, prompt_ids: ids(100 + 7 * (id % 5)) }));
    const input = write(`generate-${batch}.jsonl`, records);
    const output = path.join(folder, 'generated.jsonl');
    const { theirs } = compare(
      `generate: greedy, 64 tokens, batch ${batch}`,
      () =>
        records
          .filter((_, i) => i % batch === 0)
          .map((_, part) => {
            const file = write('part.jsonl', records.slice(part * batch, (part + 1) * batch));
            const args = ['--input', file, '--output', `${output}.${part}`, '--temperature', 0, '--max-new-tokens', 64];
            return stepward('generate', ...args);
          })
          .reduce((a, b) => ({ seconds: a.seconds + b.seconds })),
      () => peer('generate', model, input, options.threads, 64, batch),
    );
    const made = [0, 1].flatMap((part) => read(`${output}.${part}`)).map(({ outputs }) => outputs[0].ids);
    const same = made.filter((row, i) => row.every((token, k) => token === theirs.ids[i][k])).length;
    console.log(`  rows with the same ids: ${same} of ${made.length}`);
  }
}

try {
  peer('make-model', model, options.shape);
  console.log(
    `${options.shape} model, ${options.threads} threads, median of ${options.repeat}`.padEnd(58),
    '  stepward       peer   ratio',
  );
  const benches = { score: benchScore, generate: benchGenerate };
  for (const name of options.only.split(',')) {
    if (!benches[name]) throw new Error(`--only: expected score or generate, got ${name}`);
    benches[name]();
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
