// The rollout engine against transformers, vLLM's CPU build and llama.cpp: the same weights, token ids and threads, one
// process after the other, in turn, all in one run. Prints minimum, median and maximum of each, and the ratios of the
// medians. See README.md.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { randomIds } from '../lib/random-ids.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    python: { type: 'string', default: process.env.STEPWARD_PYTHON ?? 'python3' },
    model: { type: 'string' },
    'gguf-f32': { type: 'string' },
    'gguf-bf16': { type: 'string' },
    llama: { type: 'string', default: process.env.NODE_LLAMA_CPP ?? '' },
    peers: { type: 'string', default: 'transformers,vllm,llama' },
    dtypes: { type: 'string', default: 'float32,bfloat16' },
    threads: { type: 'string', default: String(Math.min(os.availableParallelism(), 8)) },
    repeat: { type: 'string', default: '3' },
    only: { type: 'string', default: 'decode,search,sharing,rows' },
    batches: { type: 'string', default: '1,8,64' },
  },
});
const peers = options.peers.split(',').filter(Boolean);
const dtypes = options.dtypes.split(',');
const folder = mkdtempSync(path.join(os.tmpdir(), 'stepward-rollout-'));
const vocabulary = 49152;

function write(name, job) {
  const file = path.join(folder, `${name}.json`);
  writeFileSync(file, JSON.stringify(job));
  return file;
}

function call(program, ...args) {
  const { status, stdout, stderr, error } = spawnSync(program, args.map(String), {
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
    env: { ...process.env, OMP_NUM_THREADS: options.threads, HF_HUB_OFFLINE: '1' },
  });
  if (error) throw error;
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${status}:\n${stderr.slice(-2000)}`);
  return JSON.parse(stdout.trimEnd().split('\n').at(-1));
}

const python = (script, ...args) => call(options.python, path.join(here, script), ...args);
const ours = (what, job, dtype) =>
  call(process.execPath, path.join(here, 'stepward.mjs'), what, model, job, options.threads, dtype);

function theirs(peer, what, job, dtype) {
  if (peer !== 'llama') return python('peers.py', what, peer, model, job, options.threads, dtype);
  const gguf = options[dtype === 'float32' ? 'gguf-f32' : 'gguf-bf16'];
  return call(process.execPath, path.join(here, 'llama.mjs'), what, gguf, job, options.threads, options.llama);
}

/** Whether a peer takes part at a precision: llama.cpp needs its module and a GGUF of that precision. */
const takesPart = (dtype) => (peer) =>
  peers.includes(peer) &&
  (peer !== 'llama' || (options.llama && options[dtype === 'float32' ? 'gguf-f32' : 'gguf-bf16']));

const spread = (values) => {
  const sorted = values.toSorted((a, b) => a - b);
  return { min: sorted[0], median: sorted[Math.floor(sorted.length / 2)], max: sorted.at(-1) };
};
const shown = ({ min, median, max }, digits = 1) =>
  `${median.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;

/** Runs every side in turn `repeat` times; what each printed, in order. */
function inTurn(sides) {
  const results = Object.fromEntries(Object.keys(sides).map((side) => [side, []]));
  for (let i = 0; i < Number(options.repeat); i++) {
    for (const [side, run] of Object.entries(sides)) results[side].push(run());
  }
  return results;
}

function benchDecode(machine) {
  for (const dtype of dtypes) {
    for (const batch of options.batches.split(',').map(Number)) {
      const ids = randomIds(10 + batch, vocabulary);
      const prompts = Array.from({ length: batch }, () => ids(64));
      const shared = { kind: 'decode', new_tokens: batch < 64 ? 64 : 48, temperature: 0.5, top_p: 0.95, seed: 1 };
      const job = write(`decode-${batch}`, { ...shared, prompts });
      const sides = { stepward: () => ours('decode', job, dtype) };
      for (const peer of ['transformers', 'vllm', 'llama'].filter(takesPart(dtype)))
        sides[peer] = () => theirs(peer, 'decode', job, dtype);
      const results = inTurn(sides);
      const rates = Object.fromEntries(
        Object.entries(results).map(([side, all]) => [side, spread(all.map((one) => one.tokens_per_second))]),
      );
      console.log(`\ndecode ${dtype}, batch ${batch}: tokens/s, median (min to max)`);
      for (const [side, rate] of Object.entries(rates)) console.log(`  ${side.padEnd(14)} ${shown(rate)}`);
      const best = Object.entries(rates)
        .filter(([side]) => side !== 'stepward')
        .sort(([, a], [, b]) => b.median - a.median)[0];
      if (best)
        console.log(`  against the best of them (${best[0]}): ${(rates.stepward.median / best[1].median).toFixed(2)}x`);
      if (machine && batch === 1) {
        const bytes = weights * (dtype === 'float32' ? 4 : 2);
        const share = (rates.stepward.median * bytes) / machine.read_bytes_per_second;
        console.log(`  share of memory bandwidth by weights alone: ${(100 * share).toFixed(0)}%`);
      }
      if (machine && batch === 64) {
        const rate = (rates.stepward.median * 2 * weights) / machine.flops[dtype];
        console.log(`  share of torch's matrix product rate: ${(100 * rate).toFixed(0)}%`);
      }
    }
  }
}

function benchSearch() {
  const ids = randomIds(3, vocabulary);
  const job = {
    kind: 'search',
    header: ids(200),
    problems: Array.from({ length: 4 }, () => ids(120)),
    tail: ids(20),
    width: 6,
    steps: 4,
    step_tokens: 40,
    label_ids: [330, 389],
    temperature: 1, // random prompts: colder, most candidates would be the same
    top_p: 0.95,
    seed: 1,
  };
  for (const dtype of dtypes) {
    const file = write(`search-${dtype}`, job);
    const { rounds, ...first } = ours('search', file, dtype);
    const replay = write(`replay-${dtype}`, { ...job, rounds });
    const sides = { stepward: () => ours('search', file, dtype) };
    for (const peer of ['transformers', 'vllm'].filter(takesPart(dtype)))
      sides[peer] = () => theirs(peer, 'search', replay, dtype);
    const results = inTurn(sides);
    console.log(
      `\nsearch ${dtype}: ${first.sampled_tokens} tokens sampled, ${first.judge_prompt_tokens} of judge prompts; ` +
        `${first.computed_tokens} prompt tokens computed by stepward`,
    );
    for (const [side, all] of Object.entries(results)) {
      const part = (name) => shown(spread(all.map((one) => one[name])));
      console.log(
        `  ${side.padEnd(14)} sample ${part('sample_seconds')} s, judge ${part('judge_seconds')} s, all ${part('seconds')} s`,
      );
    }
    const own = spread(results.stepward.map((one) => one.seconds)).median;
    for (const [side, all] of Object.entries(results)) {
      if (side === 'stepward') continue;
      const worst = Math.max(
        ...all[0].label_logprobs.flatMap((pair, i) => pair.map((x, k) => Math.abs(x - first.label_logprobs[i][k]))),
      );
      const ratio = spread(all.map((one) => one.seconds)).median / own;
      console.log(
        `  against ${side}: ${ratio.toFixed(2)}x; label log-probs differ by at most ${worst.toExponential(1)}`,
      );
    }
  }
}

function benchSharing() {
  for (const dtype of dtypes) {
    const ids = randomIds(4, vocabulary);
    const job = {
      prompts: Array.from({ length: 4 }, () => ids(768)),
      width: 8,
      new_tokens: 32,
      temperature: 0.5,
      top_p: 0.95,
      seed: 1,
    };
    const on = write('sharing-on', { ...job, share: true });
    const off = write('sharing-off', { ...job, share: false });
    const results = inTurn({ on: () => ours('sharing', on, dtype), off: () => ours('sharing', off, dtype) });
    const ratio = (name) =>
      spread(results.off.map((one) => one[name])).median / spread(results.on.map((one) => one[name])).median;
    const same = JSON.stringify(results.on[0].ids) === JSON.stringify(results.off[0].ids);
    console.log(
      `\nsharing ${dtype}: 4 prompts of 768, 8 continuations of 32 tokens each; ids ${same ? 'the same' : 'DIFFER'}`,
    );
    for (const side of ['on', 'off']) {
      const part = (name) => shown(spread(results[side].map((one) => one[name])), 2);
      console.log(`  ${side.padEnd(4)} all ${part('seconds')} s, decoding alone ${part('decode_seconds')} s`);
    }
    console.log(`  gain: ${ratio('seconds').toFixed(2)}x, decoding alone ${ratio('decode_seconds').toFixed(2)}x`);
  }
}

function benchRows() {
  for (const dtype of dtypes) {
    const ids = randomIds(5, vocabulary);
    const counts = [1, 2, 4, 8, 16, 32, 64, 128];
    const job = { prompts: Array.from({ length: 128 }, () => ids(64)), rows: counts, new_tokens: 16, temperature: 0.5 };
    const { rows } = ours('rows', write('rows', { ...job, top_p: 0.95, seed: 1 }), dtype);
    console.log(`\nrows ${dtype}: milliseconds per decoded token`);
    for (const { rows: count, tokens_per_second: rate } of rows)
      console.log(`  ${String(count).padStart(4)} rows ${(1000 / rate).toFixed(2)} ms`);
  }
}

const weights = 134_515_008; // parameters of the 135M llama shape
let model = options.model;
try {
  if (!model) {
    model = path.join(folder, 'model');
    call(options.python, path.join(here, '../peers.py'), 'make-model', model, '135m');
  }
  const machine = peers.length > 0 ? python('machine.py', options.threads) : undefined;
  console.log(`${options.threads} threads, ${options.repeat} runs of each side in turn`);
  if (machine) {
    const rates = Object.entries(machine.flops).map(([name, flops]) => `${name} ${(flops / 1e9).toFixed(0)} GFLOP/s`);
    console.log(
      `this machine, measured with torch: memory ${(machine.read_bytes_per_second / 1e9).toFixed(1)} GB/s, products ${rates.join(', ')}`,
    );
  }
  const benches = { decode: benchDecode, search: benchSearch, sharing: benchSharing, rows: benchRows };
  for (const name of options.only.split(',')) {
    if (!benches[name]) throw new Error(`--only: expected ${Object.keys(benches).join(', ')}, got ${name}`);
    benches[name](machine);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
