#!/usr/bin/env node
// Entry of the `stepward` command.

import { runProgram } from './commands/program.js';

await runProgram(process.argv.slice(2));
