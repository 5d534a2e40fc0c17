// What `train` shows: a progress line per stage, and the table of models at the end.

import { relative } from 'node:path';
import { percent } from '../data/percent.js';
import { formatSeconds, Progress } from '../progress.js';
import type { ModelMetrics } from '../run/metrics.js';

/** One Progress at a time: a new stage ends the last one's line. */
export class StageProgress {
  #stage = '';
  #progress: Progress | undefined;

  show(stage: string, done: number, total: number, note = ''): void {
    if (stage !== this.#stage) {
      this.end();
      this.#stage = stage;
      this.#progress = new Progress({ label: stage, total });
    }
    this.#progress?.update(done, note);
    if (done >= total) this.#close(note);
  }

  /** Writes a line of the log between progress lines. */
  line(write: () => void): void {
    this.end();
    write();
  }

  end(): void {
    this.#close();
    this.#stage = '';
  }

  #close(note?: string): void {
    this.#progress?.finish(note);
    this.#progress = undefined;
  }
}

export function modelTable(metrics: readonly ModelMetrics[]): string {
  const fixed = (value: number | null) => (value === null ? '-' : value.toFixed(2));
  const rows = [
    ['model', 'accuracy', 'judge', 'flips', 'pairs', 'steps', 'tokens/step', 'time'],
    ...metrics.map((line) => [
      line.model,
      percent(line.accuracy),
      percent(line.judge_accuracy),
      percent(line.judge_flip_rate),
      line.pairs === 0 ? '-' : String(line.pairs),
      fixed(line.mean_steps),
      fixed(line.mean_step_tokens),
      formatSeconds(line.seconds),
    ]),
  ];
  const widths = (rows[0] as string[]).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] as string).length)),
  );
  const line = (row: string[]) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column] as number) : cell.padStart(widths[column] as number),
      )
      .join('  ');
  return `${rows.map(line).join('\n')}\n`;
}

/** As the user would type it from here, where that is shorter. */
export function relativePath(path: string): string {
  const near = relative(process.cwd(), path);
  return near !== '' && near.length < path.length && !near.startsWith('../..') ? near : path;
}
