// IFT and EFT records as SFT examples, through the same compiled prompts that search and judge use, so that what is
// trained is exactly what is asked later.

import type { SftExample } from '../training/types.js';
import type { CompiledPrompts } from './compile.js';

/** A demonstration: a problem with its solution cut into steps. */
export interface IftRecord {
  id?: string | number;
  problem: string;
  steps: string[];
}

/** A judged pair of next steps with the reasons. */
export interface EftRecord {
  id?: string | number;
  problem: string;
  /** Steps accepted so far. */
  steps: string[];
  a: string;
  b: string;
  critique: string;
  label: 'a' | 'b';
}

/** A judged pair without reasons: what judge accuracy is measured on. */
export type LabelledPair = Omit<EftRecord, 'critique'>;

/** Loss on the steps, each token once; the prompt is context. */
export function iftExample(prompts: CompiledPrompts, record: IftRecord): SftExample {
  const last = record.steps.length - 1;
  return {
    segments: [
      { ids: prompts.solve(record.problem), weight: 0 },
      ...record.steps.map((step, i) => ({ ids: prompts.step(step, i === last), weight: 1 })),
    ],
  };
}

/** Loss on critique and verdict; the judge prompt is context. */
export function eftExample(prompts: CompiledPrompts, record: EftRecord): SftExample {
  return {
    segments: [
      { ids: prompts.judge(judgeView(prompts, record)), weight: 0 },
      { ids: prompts.critique(record.critique, record.label), weight: 1 },
    ],
  };
}

/** Ids of a written pair as the judge is shown it. */
export function judgeView(prompts: CompiledPrompts, record: Omit<LabelledPair, 'label'>) {
  return {
    problem: record.problem,
    steps: record.steps.flatMap((step) => prompts.step(step, false)),
    a: prompts.shown(prompts.step(record.a, false)),
    b: prompts.shown(prompts.step(record.b, false)),
  };
}

/** Cuts a written solution at the delimiter; blank pieces are dropped. */
export function cutSolution(solution: string, delimiter: string): string[] {
  return solution
    .split(delimiter)
    .map((step) => step.trim())
    .filter((step) => step !== '');
}
