// Several answers to one problem: which are right, and what the majority says.

import { gradePlain } from './grade.js';
import type { Grader } from './grader.js';

export interface GradedSamples {
  correct: boolean[];
  /** The answer given most often, the earliest of equals; null where none was given. */
  majority: string | null;
  majorityCorrect: boolean;
}

/** Answers count as the same where text or plain numbers say so. */
export async function gradeSamples(
  answers: readonly (string | null)[],
  gold: string,
  grader: Grader,
): Promise<GradedSamples> {
  const groups: { answer: string; count: number }[] = [];
  for (const answer of answers) {
    if (answer === null) continue;
    const same = groups.find((group) => gradePlain(answer, group.answer) === true);
    if (same) same.count++;
    else groups.push({ answer, count: 1 });
  }
  let best: { answer: string; count: number } | undefined;
  for (const group of groups) if (!best || group.count > best.count) best = group;
  const majority = best?.answer ?? null;
  return {
    correct: await Promise.all(answers.map((answer) => grader.grade(answer, gold))),
    majority,
    majorityCorrect: await grader.grade(majority, gold),
  };
}
