#!/usr/bin/env node
// `node dist/train.js [RECIPE] ...` is `stepward train [RECIPE] ...`.

import { runProgram } from './commands/program.js';

await runProgram(['train', ...process.argv.slice(2)]);
