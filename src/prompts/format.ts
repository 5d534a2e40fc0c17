// PromptFormat: every text and marker the loop puts around a problem, a step or a verdict. The words live here (or in a
// model folder's stepward.json); turning them into token ids is compile.ts, finding an answer is eval/answer.ts.

import { z } from 'zod';

/** Slots of the two prompts. Any other braces in a template are plain text. */
export const SOLVE_SLOTS = ['problem'] as const;
export const JUDGE_SLOTS = ['problem', 'steps', 'a', 'b'] as const;

const template = (slots: readonly string[]) =>
  z.string().superRefine((text, context) => {
    for (const slot of slots) {
      const found = text.split(`{${slot}}`).length - 1;
      if (found !== 1) {
        context.addIssue({
          code: 'custom',
          message: `expected the slot {${slot}} exactly once, found it ${found} times`,
        });
      }
    }
  });

const nonEmpty = z.string().min(1);

export const answerSchema = z.strictObject({
  /** Ways to find the final answer in a solution, tried in this order; the first that finds one wins. */
  find: z
    .array(z.enum(['boxed', 'marker', 'last_number']))
    .min(1)
    .default(['boxed', 'marker', 'last_number']),
  /** What stands before the answer for `marker`; the last one in the text counts, up to the end of its line. */
  markers: z.array(nonEmpty).default(['####', 'Final answer:', 'Answer:', 'answer is']),
});

export type AnswerFormat = z.infer<typeof answerSchema>;

const SOLVE = `Solve the problem below. Work step by step, start every step on its own line with "Step n: " where n counts from 1, and put the final answer in \\boxed{}.

Problem: {problem}

`;

// The criteria follow PSRLM's pairwise judge (arXiv 2503.03746, appendix) and MT-Bench; the words are our own.
const JUDGE = `You are a fair judge. Two assistants, A and B, were each asked for the next reasoning step of a solution. Decide whose step is more correct and more helpful for solving the problem. Check every calculation yourself. The order in which the two are shown, their length and their names must not sway you. First compare the two steps and explain your judgment in detail, then finish with your verdict: [[A]] if assistant A's step is better, [[B]] if assistant B's step is better, and nothing else.

[The Start of the Problem and the Steps so far]
{problem}

{steps}
[The End of the Problem and the Steps so far]

[The Start of Assistant A's Next Step]
{a}
[The End of Assistant A's Next Step]

[The Start of Assistant B's Next Step]
{b}
[The End of Assistant B's Next Step]

`;

export const formatSchema = z.strictObject({
  /** Whether prompts go through the tokenizer's chat template; auto: where it has one. */
  chat: z.union([z.literal('auto'), z.boolean()]).default('auto'),
  /** System message of both prompts; empty: none. Only used with a chat template. */
  system: z.string().default(''),
  /** What a solution continues. Slot: {problem}. */
  solve: template(SOLVE_SLOTS).default(SOLVE),
  /** What a critique continues. Slots: {problem}, {steps} (the accepted steps, or nothing), {a}, {b}. */
  judge: template(JUDGE_SLOTS).default(JUDGE),
  /** A step ends with the token after which its text holds this; it belongs to the step it ends. */
  step_delimiter: nonEmpty.default('\n'),
  /** How an EFT record becomes the judge's target text. Slots: {critique}, {verdict}. */
  critique: template(['critique', 'verdict']).default('{critique}\n{verdict}'),
  /** What the judge ends with when the first or the second step shown is better. */
  verdicts: z
    .strictObject({ a: nonEmpty.default('[[A]]'), b: nonEmpty.default('[[B]]') })
    .prefault({})
    .refine((verdicts) => verdicts.a !== verdicts.b, 'expected two different verdicts'),
  /** The judge's fast mode: `suffix` is appended to the judge prompt and the probabilities of the two labels are read. */
  readout: z
    .strictObject({ suffix: z.string().default('[['), labels: z.tuple([nonEmpty, nonEmpty]).default(['A', 'B']) })
    .prefault({}),
  answer: answerSchema.prefault({}),
});

export type PromptFormat = z.infer<typeof formatSchema>;

/** The built-in format: numbered steps on lines of their own, a boxed answer, a pairwise judge with a critique. */
export const DEFAULT_FORMAT: PromptFormat = formatSchema.parse({});

/** Content of a model folder's stepward.json. */
export const modelFileSchema = z.strictObject({ format: formatSchema });
