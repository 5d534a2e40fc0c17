// Preference training against TRL's DPOTrainer: the same weights, token ids, order and optimiser, one process after the
// other, in turn, all in one run. Prints the ratios of the medians; times alone mean little. See ../README.md.

import { writeFileSync } from 'node:fs';
import os from 'node:os';
import { parseArgs } from 'node:util';
import { curves } from './parts/curves.mjs';
import { memory } from './parts/memory.mjs';
import { optimizer } from './parts/optimizer.mjs';
import { ratio } from './parts/ratio.mjs';
import { sharing } from './parts/sharing.mjs';
import { sweepK, sweepModel, sweepS, sweepVocabulary } from './parts/sweeps.mjs';
import { llama, SHAPES } from './shapes.mjs';
import { Sides } from './sides.mjs';

const PARTS = {
  ratio,
  curves,
  'sweep-k': sweepK,
  'sweep-s': sweepS,
  'sweep-vocab': sweepVocabulary,
  'sweep-model': sweepModel,
  sharing,
  memory,
  optimizer,
};
// Ours alone: no Python is needed.
const ALONE = ['sharing', 'memory', 'optimizer'];

function readOptions() {
  const { values } = parseArgs({
    options: {
      python: { type: 'string', default: process.env.STEPWARD_PYTHON ?? 'python3' },
      parts: { type: 'string', default: 'ratio,curves,sharing,optimizer' },
      repeat: { type: 'string', default: '3' },
      vocab: { type: 'string', default: '8192,50000' },
      threads: { type: 'string', default: String(Math.min(os.availableParallelism(), 8)) },
      pairs: { type: 'string', default: '48' },
      steps: { type: 'string', default: '200' },
      shape: { type: 'string', default: 'bench' },
      'micro-batch-tokens': { type: 'string' },
      model: { type: 'string' },
      json: { type: 'string' },
    },
  });
  const whole = (name, text, multiple = 1) => {
    const value = Number(text);
    if (Number.isSafeInteger(value) && value >= 1 && value % multiple === 0) return value;
    throw new Error(
      `--${name}: expected a whole number above 0${multiple > 1 ? `, a multiple of ${multiple}` : ''}, got ${text}`,
    );
  };
  const parts = values.parts.split(',').filter(Boolean);
  for (const part of parts) {
    if (!PARTS[part]) throw new Error(`--parts: expected ${Object.keys(PARTS).join(', ')}, got ${part}`);
  }
  if (!SHAPES[values.shape])
    throw new Error(`--shape: expected ${Object.keys(SHAPES).join(' or ')}, got ${values.shape}`);
  return {
    ...values,
    parts,
    repeat: whole('repeat', values.repeat),
    threads: whole('threads', values.threads),
    // Two optimiser steps at least: configurations are chosen on two.
    pairs: whole('pairs', values.pairs, 16),
    steps: whole('steps', values.steps),
    microBatchTokens: values['micro-batch-tokens'] && whole('micro-batch-tokens', values['micro-batch-tokens']),
    vocab: values.vocab.split(',').map((text) => whole('vocab', text)),
  };
}

const options = readOptions();
const sides = new Sides(options);
const kept = { options, cpu: os.cpus()[0].model, date: new Date().toISOString().slice(0, 10), parts: {} };

const bench = {
  options,
  sides,
  shape: SHAPES[options.shape],
  /** What every job has; batch_size and trees are a part's own. Without micro_batch_tokens ours takes its default. */
  job: {
    beta: 0.1,
    learning_rate: 1e-6,
    ...(options.microBatchTokens && { micro_batch_tokens: options.microBatchTokens }),
  },
  model: (shape) => sides.model(llama(shape)),
  /** Runs every side in turn `repeat` times; what each printed, in order. */
  inTurn(runs) {
    const results = Object.fromEntries(Object.keys(runs).map((side) => [side, []]));
    for (let i = 0; i < options.repeat; i++) {
      for (const [side, run] of Object.entries(runs)) results[side].push(run());
    }
    return results;
  },
  /** Keeps a result for --json, and writes the file, so that a run that is stopped leaves what it has. */
  keep(part, result) {
    kept.parts[part] = [...(kept.parts[part] ?? []), result];
    if (options.json) writeFileSync(options.json, `${JSON.stringify(kept, null, 1)}\n`);
  },
};

try {
  console.log(`${kept.cpu}, ${options.threads} threads, ${options.repeat} runs of each side in turn`);
  if (options.parts.some((part) => !ALONE.includes(part))) {
    kept.machine = sides.machine();
    const rates = Object.entries(kept.machine.flops).map(
      ([dtype, rate]) => `${dtype} ${(rate / 1e9).toFixed(0)} GFLOP/s`,
    );
    console.log(`this machine, measured with torch: products ${rates.join(', ')}`);
  }
  for (const part of options.parts) await PARTS[part](bench);
} finally {
  sides.close();
}
