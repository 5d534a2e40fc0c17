// Progress on stderr: one redrawn line on a terminal, a plain line now and then elsewhere. Says nothing on stdout.

import pc from 'picocolors';

export interface ProgressOptions {
  /** What is being done, e.g. "sft". */
  label: string;
  /** Unknown where left out. */
  total?: number;
  /** What is counted, e.g. "steps". */
  unit?: string;
  stream?: NodeJS.WriteStream;
}

const REDRAW_MS = 100;
const PLAIN_LINE_MS = 10_000;
const BAR_WIDTH = 24;

export class Progress {
  readonly #label: string;
  readonly #unit: string;
  readonly #stream: NodeJS.WriteStream;
  readonly #start = performance.now();
  #total: number | undefined;
  #done = 0;
  #note = '';
  #lastShown: number;
  /** What the last plain line said of the work, without its time. */
  #lastPlain = '';
  #finished = false;

  constructor(options: ProgressOptions) {
    this.#label = options.label;
    this.#total = options.total;
    this.#unit = options.unit ?? '';
    this.#stream = options.stream ?? process.stderr;
    this.#lastShown = this.#stream.isTTY ? Number.NEGATIVE_INFINITY : this.#start;
  }

  set total(value: number) {
    this.#total = value;
  }

  /** `done` so far, with a short remark such as the loss. */
  update(done: number, note = ''): void {
    this.#done = done;
    this.#note = note;
    const now = performance.now();
    if (now - this.#lastShown < (this.#stream.isTTY ? REDRAW_MS : PLAIN_LINE_MS)) return;
    if (this.#stream.isTTY) {
      this.#lastShown = now;
      this.#stream.write(`\r\x1b[2K${this.#bar()}`);
    } else {
      this.#writePlain();
    }
  }

  /** Ends the line. The last state stays on the screen. */
  finish(note = this.#note): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#note = note;
    if (this.#stream.isTTY) this.#stream.write(`\r\x1b[2K${this.#bar()}\n`);
    else this.#writePlain();
  }

  /** A line, unless the last one said the same. */
  #writePlain(): void {
    const state = `${this.#count()} ${this.#note}`;
    if (state === this.#lastPlain) return;
    this.#lastPlain = state;
    this.#lastShown = performance.now();
    const note = this.#note === '' ? '' : ` ${this.#note}`;
    this.#stream.write(`${this.#label}: ${this.#count()} ${formatSeconds(this.#seconds())}${note}\n`);
  }

  #bar(): string {
    const total = this.#total;
    const share = total ? Math.min(1, this.#done / total) : 0;
    const filled = Math.round(share * BAR_WIDTH);
    const bar = total ? `${pc.cyan('\u2588'.repeat(filled))}${pc.dim('\u2591'.repeat(BAR_WIDTH - filled))} ` : '';
    const left =
      share > 0 && share < 1 ? pc.dim(` ${formatSeconds((this.#seconds() * (1 - share)) / share)} left`) : '';
    const note = this.#note === '' ? '' : ` ${this.#note}`;
    return `${this.#label} ${bar}${this.#count()} ${formatSeconds(this.#seconds())}${left}${note}`;
  }

  #count(): string {
    const count = this.#total === undefined ? `${this.#done}` : `${this.#done}/${this.#total}`;
    return this.#unit === '' ? count : `${count} ${this.#unit}`;
  }

  #seconds(): number {
    return (performance.now() - this.#start) / 1000;
  }
}

/** "0.4s", "12s", "3m05s", "2h04m". */
export function formatSeconds(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, '0')}s`;
  return `${Math.floor(whole / 3600)}h${String(Math.floor((whole % 3600) / 60)).padStart(2, '0')}m`;
}
