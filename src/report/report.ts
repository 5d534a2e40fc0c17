// report.html of a run folder, from whatever the run has left there.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileError } from '../data/jsonl.js';
import { finished } from '../run/folder.js';
import { readRun } from './data.js';
import { reportPage } from './page.js';

/** Writes DIR/report.html; its path. Missing and unfinished stages are left out. Throws IO_ERROR where it cannot write. */
export async function writeReport(directory: string): Promise<string> {
  const page = reportPage(await readRun(directory));
  const path = join(directory, 'report.html');
  try {
    await finished(path, async (part) => writeFileSync(part, page));
  } catch (error) {
    throw fileError(path, error);
  }
  return path;
}
