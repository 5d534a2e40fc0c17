// Checkpoints on disk: when they are made, which is gone on from, and which are refused. That training goes on exactly is
// native/resume.test.ts's to show.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { TrainingCheckpoints } from '../../src/training/checkpoint.js';
import { trainSft } from '../../src/training/sft.js';
import { fakeTrainerEngine } from '../helpers/fake-trainer.js';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stepward-checkpoint-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const examples = Array.from({ length: 7 }, (_, i) => ({
  segments: [
    { ids: [1, 2], weight: 0 },
    { ids: [3 + i], weight: 1 },
  ],
}));

interface Run {
  fingerprint?: Record<string, unknown>;
  /** The step after which it fails, or with `interrupt` is interrupted. */
  stopAfter?: number;
  interrupt?: AbortController;
  batchSize?: number;
}

/** Trains with checkpoints. */
async function train(resume: boolean, { fingerprint = { lr: 1 }, stopAfter = 99, interrupt, batchSize = 1 }: Run = {}) {
  const { engine, trainer } = fakeTrainerEngine();
  engine.save = async (folder) => {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'weights'), `${trainer.scale}`);
  };
  const log = join(root, 'train.jsonl');
  const options = { directory: join(root, 'checkpoints'), every: 2, fingerprint, log };
  const checkpoints = resume
    ? TrainingCheckpoints.resumed(engine, options)
    : TrainingCheckpoints.fresh(engine, options);
  const lines = checkpoints.logged();
  const summary = await trainSft(
    engine,
    examples,
    { batchSize, shuffle: false },
    {
      checkpoints,
      ...(interrupt && { signal: interrupt.signal }),
      onStep(metrics) {
        lines.push(metrics);
        writeFileSync(log, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
        if (metrics.step !== stopAfter) return;
        if (!interrupt) throw new Error('stopped');
        interrupt.abort();
      },
    },
  );
  return { summary, lines, trainer, done: checkpoints.done };
}

const kept = (): string[] => readdirSync(join(root, 'checkpoints'));

it('keeps the newest, with everything to go on from', async () => {
  const { trainer } = await train(false);
  expect(kept()).toEqual(['step-6']);
  expect(readdirSync(join(root, 'checkpoints', 'step-6')).sort()).toEqual(['model', 'train.jsonl', 'trainer.json']);
  expect(trainer.calls.filter((call) => call.startsWith('saveState'))).toHaveLength(3);
  const stored = JSON.parse(readFileSync(join(root, 'checkpoints', 'step-6', 'trainer.json'), 'utf8')) as object;
  expect(stored).toMatchObject({ progress: { steps: 6, tokens: 18 }, fingerprint: { lr: 1 } });
});

it('goes on after the newest whole one, with its counts and its log', async () => {
  await expect(train(false, { stopAfter: 5 })).rejects.toThrow('stopped');
  // Killed while it wrote the next.
  mkdirSync(join(root, 'checkpoints', 'step-6.partial'));
  const whole = await train(true);
  expect(whole.done).toBe(4);
  expect(whole.trainer.calls[0]).toMatch(/^loadState .*step-4\/optimizer\.safetensors$/);
  expect(whole.trainer.sftBatches.map(({ forest }) => [...forest.tokens])).toEqual([
    [1, 2, 7],
    [1, 2, 8],
    [1, 2, 9],
  ]);
  expect(whole.lines.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7]);
  expect(whole.lines.at(-1)?.num_tokens).toBe(21);
  expect(whole.summary).toMatchObject({ steps: 7, tokens: 21, computedTokens: 21 });
  expect(kept()).toEqual(['step-6']);
});

it('goes on with the size of micro-batches that it had, whatever memory is there now', async () => {
  const sizes = ({ trainer }: Awaited<ReturnType<typeof train>>) =>
    trainer.sftBatches.map(({ forest }) => forest.tokens.length);
  await expect(train(false, { stopAfter: 3, batchSize: 3 })).rejects.toThrow('stopped');
  const path = join(root, 'checkpoints', 'step-2', 'trainer.json');
  const stored = JSON.parse(readFileSync(path, 'utf8')) as { microBatchTokens: number; progress: { steps: number } };
  expect(stored.microBatchTokens).toBeGreaterThan(9);
  // As if it had been three tokens, and the first two steps were still to do.
  stored.progress.steps = 0;
  writeFileSync(path, JSON.stringify({ ...stored, microBatchTokens: 3 }));
  expect(Math.max(...sizes(await train(true, { batchSize: 3 })))).toBe(3);
  rmSync(join(root, 'checkpoints'), { recursive: true });
  expect(Math.max(...sizes(await train(false, { batchSize: 3 })))).toBeGreaterThan(3);
});

it('makes one where the training is interrupted', async () => {
  const controller = new AbortController();
  await expect(train(false, { stopAfter: 5, interrupt: controller })).rejects.toMatchObject({ code: 'CANCELLED' });
  expect(kept()).toEqual(['step-5']);
  expect((await train(true)).done).toBe(5);
});

it('starts at the beginning where there is none, and throws old ones away when it starts anew', async () => {
  expect((await train(true)).done).toBe(0);
  await expect(train(false, { stopAfter: 1 })).rejects.toThrow('stopped');
  expect(existsSync(join(root, 'checkpoints'))).toBe(false);
});

it('refuses one of another training, naming what differs, and a damaged one', async () => {
  await train(false);
  await expect(train(true, { fingerprint: { lr: 2 } })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(/step-6, whose lr is 1, got 2$/),
  });
  await expect(train(true, { fingerprint: { lr: 1, 'hash of --data': 'x' } })).rejects.toThrow(
    'whose hash of --data is not set, got "x"',
  );
  writeFileSync(join(root, 'checkpoints', 'step-6', 'trainer.json'), '{"progress": {}}');
  await expect(train(true)).rejects.toMatchObject({ code: 'CHECKPOINT_INVALID' });
});
