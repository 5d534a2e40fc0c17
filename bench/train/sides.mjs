// The two sides of the training benchmark: each measurement is a process of its own that reads a job file and prints one
// JSON object. The forms of both: ../README.md.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Engine } from '../../dist/index.js';

const here = path.dirname(fileURLToPath(import.meta.url));

/** Runs a program that prints a JSON object as its last line. */
export function callJson(program, args, { threads, env = {} } = {}) {
  const { status, signal, stdout, stderr, error } = spawnSync(program, args.map(String), {
    encoding: 'utf8',
    maxBuffer: 2 ** 30,
    env: { ...process.env, ...(threads && { OMP_NUM_THREADS: String(threads) }), HF_HUB_OFFLINE: '1', ...env },
  });
  if (error) throw error;
  if (status !== 0) {
    const end = signal ? `was ended by ${signal}` : `ended with ${status}`;
    throw new Error(`${path.basename(program)} ${args.join(' ')} ${end}:\n${stderr.slice(-3000)}`);
  }
  return JSON.parse(stdout.trimEnd().split('\n').at(-1));
}

export class Sides {
  #folder = mkdtempSync(path.join(os.tmpdir(), 'stepward-train-'));
  #jobs = 0;

  constructor({ python, threads }) {
    this.python = python;
    this.threads = threads;
  }

  /** Folder of a random model of this config.json; the same config gives the same folder. */
  async model(config, device = 'cpu') {
    const { hidden_size: hidden, num_hidden_layers: layers, vocab_size: vocabulary, torch_dtype: dtype } = config;
    const directory = path.join(this.#folder, `model-${layers}x${hidden}-${vocabulary}-${dtype}`);
    if (existsSync(directory)) return directory;
    const blank = `${directory}.config`;
    mkdirSync(blank);
    writeFileSync(path.join(blank, 'config.json'), JSON.stringify(config));
    const engine = await Engine.load({ directory: blank, device, dtype, initSeed: 1 });
    try {
      await engine.save(directory);
    } finally {
      await engine.dispose();
    }
    return directory;
  }

  ours(model, job) {
    // A cache of the user's own must not take work away from a timed run.
    const env = { XDG_CACHE_HOME: mkdtempSync(path.join(this.#folder, 'cache-')) };
    const args = [path.join(here, 'stepward.mjs'), model, this.#write(job), this.threads];
    return callJson(process.execPath, args, { threads: this.threads, env });
  }

  theirs(model, job) {
    const args = [path.join(here, 'peers.py'), model, this.#write(job), this.threads];
    return callJson(this.python, args, { threads: this.threads });
  }

  machine() {
    return callJson(this.python, [path.join(here, '../rollout/machine.py'), this.threads], { threads: this.threads });
  }

  close() {
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #write(job) {
    const file = path.join(this.#folder, `job-${this.#jobs++}.json`);
    writeFileSync(file, JSON.stringify(job));
    return file;
  }
}
