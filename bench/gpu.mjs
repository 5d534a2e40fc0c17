// On a CUDA machine: sampling against transformers' generate on the same device and weights, what graphs of decode
// steps and shared prefixes gain, and preference training (train/gpu.mjs). Models are random, of the shape of a 0.5B one;
// ratios are of the medians.
//
//     gpu.mjs [--python PATH] [--device cuda] [--repeat 3] [--parts rollout,train]
//
// PATH is a Python with a CUDA torch, transformers and trl; ratios to what it lacks are left out.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Engine } from '../dist/index.js';
import { train } from './train/gpu.mjs';

const { values: options } = parseArgs({
  options: {
    python: { type: 'string', default: process.env.STEPWARD_PYTHON ?? 'python3' },
    device: { type: 'string', default: 'cuda' },
    repeat: { type: 'string', default: '3' },
    parts: { type: 'string', default: 'rollout,train' },
  },
});
// `--device cpu` tries the script out; its ratios mean nothing.
const { device } = options;
const small = device === 'cpu';
const config = {
  architectures: ['Qwen2ForCausalLM'],
  model_type: 'qwen2',
  vocab_size: small ? 512 : 151936,
  hidden_size: small ? 64 : 896,
  intermediate_size: small ? 128 : 4864,
  num_hidden_layers: small ? 2 : 24,
  num_attention_heads: 14,
  num_key_value_heads: 2,
  head_dim: small ? 16 : 64,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-6,
  rope_theta: 1e6,
  hidden_act: 'silu',
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
};
const dtype = small ? 'float32' : 'bfloat16';
const work = { prompts: small ? 4 : 64, prompt: 256, tokens: small ? 8 : 128 };
const search = { prompts: small ? 2 : 16, width: 8, prompt: 512, tokens: small ? 8 : 64 };

const folder = mkdtempSync(path.join(os.tmpdir(), 'stepward-gpu-'));
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const ratio = (label, value) => console.log(`${label.padEnd(64)} ${value.toFixed(2).padStart(7)}x`);
const promptsOf = ({ prompts, prompt }, round) =>
  Array.from({ length: prompts }, (_, p) =>
    Array.from({ length: prompt }, (_, i) => (p * 131 + i * 17 + round * 7 + 3) % config.vocab_size),
  );

/** Tokens a second of a job, prompts included: the median of some rounds after one to warm up. */
async function measure(model, job, { graphs = true, sharePrefixes = true } = {}) {
  process.env.STEPWARD_CUDA_GRAPHS = graphs ? 'on' : 'off';
  const engine = await Engine.load({ directory: model, device, dtype, kvBudgetBytes: 2 ** 33, sharePrefixes });
  const rates = [];
  try {
    for (let round = 0; round <= Number(options.repeat); round++) {
      const start = performance.now();
      const nodes = promptsOf(job, round).map((ids) => engine.tree.open(ids));
      const sampling = { minNewTokens: job.tokens, maxNewTokens: job.tokens, eosIds: new Int32Array(0) };
      const fork = await engine.tree.fork(nodes, { ...sampling, samples: job.width ?? 1, temperature: 0.7 });
      if (round > 0) rates.push((1000 * fork.tokens.length) / (performance.now() - start));
      engine.tree.release([...nodes, ...Array.from(fork.finish, (_, row) => fork.firstNode + row)]);
    }
  } finally {
    await engine.dispose();
  }
  return median(rates);
}

const PEER = `
import json, sys, time, torch, transformers
transformers.logging.set_verbosity_error()
folder, device, job = sys.argv[1], sys.argv[2], json.load(sys.stdin)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
model.generation_config = transformers.GenerationConfig()
rates = []
for round, prompts in enumerate(job["prompts"]):
    ids, n = torch.tensor(prompts, device=device), job["tokens"]
    start = time.perf_counter()
    with torch.inference_mode():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.7, top_k=0,
                              min_new_tokens=n, max_new_tokens=n, pad_token_id=0)
    if device == "cuda":
        torch.cuda.synchronize()
    if round:
        rates.append(len(prompts) * n / (time.perf_counter() - start))
print(sorted(rates)[len(rates) // 2])
`;

function peer(model) {
  const rounds = Array.from({ length: Number(options.repeat) + 1 }, (_, round) => promptsOf(work, round));
  const job = JSON.stringify({ prompts: rounds, tokens: work.tokens });
  try {
    const args = ['-c', PEER, model, device];
    return Number(execFileSync(options.python, args, { encoding: 'utf8', input: job, stdio: 'pipe' }));
  } catch (error) {
    const reason = String(error.stderr ?? error).trim();
    console.log(`no ratio to transformers: ${reason.slice(reason.lastIndexOf('\n') + 1)}`);
    return undefined;
  }
}

async function rollout() {
  const blank = path.join(folder, 'config');
  const model = path.join(folder, 'model');
  mkdirSync(blank);
  writeFileSync(path.join(blank, 'config.json'), JSON.stringify(config));
  const made = await Engine.load({ directory: blank, device, dtype, initSeed: 1 });
  await made.save(model);
  await made.dispose();

  const own = await measure(model, work);
  console.log(`${work.prompts} rows, ${work.prompt} + ${work.tokens} tokens: ${own.toFixed(0)} tokens/s`);
  const theirs = peer(model);
  if (theirs) ratio('against transformers', own / theirs);
  ratio('graphs of decode steps, against launches one by one', own / (await measure(model, work, { graphs: false })));
  const few = { ...work, prompts: 1 };
  const alone = await measure(model, few);
  console.log(`1 row: ${alone.toFixed(0)} tokens/s`);
  ratio('graphs, at one row', alone / (await measure(model, few, { graphs: false })));
  const shared = await measure(model, search);
  const job = `${search.prompts} prompts of ${search.prompt} with ${search.width} continuations`;
  console.log(`${job}: ${shared.toFixed(0)} tokens/s`);
  ratio('shared prefixes, against none', shared / (await measure(model, search, { sharePrefixes: false })));
}

try {
  const parts = { rollout, train: () => train({ device, python: options.python, repeat: Number(options.repeat) }) };
  for (const name of options.parts.split(',')) {
    if (!parts[name]) throw new Error(`--parts: expected rollout or train, got ${name}`);
    await parts[name]();
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
