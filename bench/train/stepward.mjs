// Stepward's side of the training benchmark on a job file. Prints one JSON object.
//
//     stepward.mjs MODEL JOB THREADS
//
// The forms of both: ../README.md. `seconds` leaves out loading the model, and takes in everything else that a training
// does: making the trainer, packing, its checks, reference log-probs, optimiser steps.

import { readFileSync, writeFileSync } from 'node:fs';
import { Engine, setThreads, trainPreference } from '../../dist/index.js';

const [directory, jobFile, threads] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile, 'utf8'));

/** Kilobytes of /proc/self/status as bytes. */
function memory(name) {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(line[1]) * 1024;
}

const optional = (name, key = name) => (job[key] === undefined ? {} : { [name]: job[key] });

setThreads(Number(threads));
const engine = await Engine.load({ directory, device: job.device ?? 'cpu', dtype: job.dtype ?? 'float32' });
try {
  const trees = job.trees.map(({ prompt_ids: promptIds, steps }) => ({
    promptIds,
    steps: steps.map(({ chosen_ids: chosenIds, rejected }) => ({ chosenIds, rejected })),
  }));
  const loadPeak = memory('VmHWM');
  writeFileSync('/proc/self/clear_refs', '5'); // VmHWM starts again from what is resident now
  const resident = memory('VmRSS');
  const steps = [];
  const times = [];
  let referenceDone;
  const start = performance.now();
  const summary = await trainPreference(
    engine,
    trees,
    {
      beta: job.beta,
      learningRate: job.learning_rate,
      schedule: 'linear',
      batchSize: job.batch_size,
      maxGradNorm: 1,
      weightDecay: 0,
      shuffle: false,
      ...optional('maxSteps', 'max_steps'),
      ...optional('microBatchTokens', 'micro_batch_tokens'),
      ...optional('sharing'),
      ...optional('checkpointLayers', 'checkpoint_layers'),
      ...optional('lora'),
    },
    {
      onReference: (done, total) => {
        if (done === total) referenceDone = performance.now();
      },
      onStep: (metrics) => {
        steps.push(metrics);
        times.push(performance.now());
      },
    },
  );
  const seconds = (performance.now() - start) / 1000;
  const peak = memory('VmHWM');
  console.log(
    JSON.stringify({
      seconds,
      reference_seconds: referenceDone === undefined ? undefined : (referenceDone - start) / 1000,
      step_seconds: times.map((time, i) => (time - (times[i - 1] ?? referenceDone ?? start)) / 1000),
      pairs: steps.length * job.batch_size,
      tokens: summary.tokens,
      computed_tokens: summary.computedTokens,
      resident_bytes: resident,
      peak_bytes: Math.max(peak, loadPeak),
      training_peak_bytes: peak,
      extra_bytes: peak - resident,
      estimated_bytes: summary.estimatedBytes,
      loss: steps.map((metrics) => metrics.loss),
      margins: steps.map((metrics) => metrics['rewards/margins']),
    }),
  );
} finally {
  await engine.dispose();
}
