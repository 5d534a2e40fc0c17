// Records that are longer than they may be: refused, or cut and counted.

import { StepwardError } from '../errors.js';
import type { SftExample } from '../training/types.js';
import { lengthIssue } from './checked.js';

/** Tokens of an example. */
export function exampleLength({ segments }: Pick<SftExample, 'segments'>): number {
  return segments.reduce((sum, { ids }) => sum + ids.length, 0);
}

export type TooLong = 'refuse' | 'cut';
export const TOO_LONG = ['refuse', 'cut'] as const;

/** How long a record may be, and what became of those that were longer. */
export class LengthLimit {
  /** Whole steps, or turns of a chat, that were cut from the end of a record. */
  cutSteps = 0;
  /** Pairs of the steps that were cut, and of records of which nothing was left. */
  droppedPairs = 0;
  /** Examples of which nothing was left. */
  droppedExamples = 0;
  readonly #what: string;

  private constructor(
    readonly maxTokens: number,
    readonly tooLong: TooLong,
    what: string,
  ) {
    this.#what = what;
  }

  /** `maxLength`: default the model's positions, and never more. Throws INVALID_ARGUMENT. */
  static of(maxPositions: number, maxLength?: number, tooLong: TooLong = 'refuse'): LengthLimit {
    if (maxLength === undefined) return new LengthLimit(maxPositions, tooLong, "the model's positions");
    if (!(Number.isSafeInteger(maxLength) && maxLength >= 2 && maxLength <= maxPositions)) {
      throw new StepwardError(
        'INVALID_ARGUMENT',
        `--max-length: expected a whole number from 2 to the model's ${maxPositions} positions, got ${maxLength}`,
      );
    }
    return new LengthLimit(maxLength, tooLong, '--max-length');
  }

  /** What is wrong with a sequence of these parts; undefined where it fits. */
  issue(parts: Record<string, number>): string | undefined {
    return lengthIssue(parts, this.maxTokens, this.#what);
  }

  /** Keys of a command's summary; none where nothing was cut. */
  counts(): Record<string, number> {
    return {
      ...(this.cutSteps > 0 && { cut_steps: this.cutSteps }),
      ...(this.droppedPairs > 0 && { dropped_pairs: this.droppedPairs }),
      ...(this.droppedExamples > 0 && { dropped_examples: this.droppedExamples }),
    };
  }

  /** For a log; undefined where nothing was cut. */
  remark(): string | undefined {
    const counts = Object.entries(this.counts()).map(([name, count]) => `${count} ${name.replace('_', ' ')}`);
    return counts.length === 0 ? undefined : `longer than ${this.maxTokens} tokens: ${counts.join(', ')}`;
  }

  /**
   * The example without its last segments, so that it fits and ends with something to train on; undefined where nothing of
   * that is left.
   */
  cutExample(example: SftExample): SftExample | undefined {
    const segments = [...example.segments];
    let length = exampleLength(example);
    let cut = 0;
    while (segments.length > 0 && (length > this.maxTokens || segments.at(-1)?.weight === 0)) {
      const last = segments.pop() as SftExample['segments'][number];
      length -= last.ids.length;
      if (last.weight !== 0) cut++;
    }
    if (segments.length === 0) {
      this.droppedExamples++;
      return undefined;
    }
    this.cutSteps += cut;
    return { ...example, segments };
  }
}
