// How a sampled row ended, in the order of the engine's codes.

export const FINISHES = ['stop', 'eos', 'length'] as const;

/** stop: a stop text; eos: an end-of-sequence token; length: neither. */
export type Finish = (typeof FINISHES)[number];

/** The name of an engine's code. */
export function finishOf(code: number | undefined): Finish {
  return FINISHES[code as number] as Finish;
}
