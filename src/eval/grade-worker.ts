// The thread in which grader.ts compares expressions, so that it can be ended.

import { parentPort } from 'node:worker_threads';
import { equivalent } from './grade.js';

parentPort?.on('message', ({ predicted, gold }: { predicted: string; gold: string }) => {
  parentPort?.postMessage({ same: equivalent(predicted, gold) });
});
