// llama.cpp's side of the rollout benchmark, through node-llama-cpp, on a job file. Prints one JSON object.
//
//     llama.mjs decode GGUF JOB THREADS [MODULE]
//
// MODULE, or NODE_LLAMA_CPP, is the folder of an installed node-llama-cpp, which is no dependency of this project.
// `seconds` leaves out loading and a warm-up on other ids. The forms of a job file: README.md.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

/** Exactly `count` sampled tokens after the prompt; the context batches the sequences that wait at the same time. */
async function sample(sequence, prompt, count, job) {
  const options = {
    temperature: job.temperature,
    topP: job.top_p,
    // The whole vocabulary, like the other engines: node-llama-cpp would take 40. llama.cpp then sorts all of it, and cuts at
    // top-p before it divides by the temperature.
    topK: 0,
    seed: job.seed,
    yieldEogToken: true,
  };
  let made = 0;
  for await (const _token of sequence.evaluate(prompt, options)) if (++made === count) break;
  return made;
}

/** Measures sampling alone: one batch of prompts, `new_tokens` each. */
async function decode(model, job, threads) {
  const longest = Math.max(...job.prompts.map((prompt) => prompt.length));
  const context = await model.createContext({
    sequences: job.prompts.length,
    contextSize: longest + job.new_tokens,
    batchSize: Math.max(512, job.prompts.length),
    threads,
  });
  const sequences = job.prompts.map(() => context.getSequence());
  const all = (prompts, count) =>
    Promise.all(prompts.map((prompt, i) => sample(sequences[i], prompt, count, { ...job, seed: job.seed + i })));

  await all(
    job.prompts.map((prompt) => prompt.toReversed()),
    2,
  );
  await Promise.all(sequences.map((sequence) => sequence.clearHistory()));
  const start = performance.now();
  const counts = await all(job.prompts, job.new_tokens);
  const seconds = (performance.now() - start) / 1000;
  const tokens = counts.reduce((a, b) => a + b, 0);
  if (tokens !== job.prompts.length * job.new_tokens) {
    throw new Error(`expected ${job.prompts.length} x ${job.new_tokens} tokens, got ${counts}`);
  }
  return { seconds, generated_tokens: tokens, tokens_per_second: tokens / seconds };
}

const [what, file, jobFile, threads, folder = process.env.NODE_LLAMA_CPP] = process.argv.slice(2);
if (what !== 'decode') throw new Error(`expected decode, got ${what}`);
if (!folder) throw new Error('MODULE or NODE_LLAMA_CPP: expected the folder of node-llama-cpp');
const job = JSON.parse(readFileSync(jobFile, 'utf8'));
if (job.kind !== what) throw new Error(`${jobFile}: expected a job of kind ${what}, got ${job.kind}`);

const { getLlama } = await import(pathToFileURL(path.resolve(folder, 'dist/index.js')).href);
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: Number(threads), logLevel: 'error' });
const model = await llama.loadModel({ modelPath: path.resolve(file) });
const result = await decode(model, job, Number(threads));
console.log(`\n${JSON.stringify(result)}`);
await llama.dispose();
