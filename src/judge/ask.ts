// Puts many questions to the judge in one request: by sampling a critique up to its verdict, or by reading the label
// probabilities. Their prompts are one token tree, and what the engine has computed of it already is not computed again.
// What the answers mean is for tally.ts.

import type { JudgeConfig } from '../config/recipe.js';
import { PathForest } from '../data/forest.js';
import type { Policy } from '../loop/policy.js';
import type { SearchCounts, Winner } from '../loop/types.js';
import type { NodeNumber } from '../native/types.js';
import type { JudgeView } from '../prompts/compile.js';
import { parseVerdict, readoutVerdict, readPFirst } from './verdict.js';

export interface Question {
  view: JudgeView;
  /** Random stream of the question, as the engine takes it. */
  key: bigint;
  step: number;
}

export interface Answer {
  winner: Winner;
  pFirst: number | null;
  critique?: string;
}

export interface AskOptions {
  judge: JudgeConfig;
  seed: number;
  signal?: AbortSignal | undefined;
  /** Lower first, among all that the engine is asked. */
  priority?: number;
}

/** One answer per question. A question too long for the model is answered `invalid`. Adds to `counts`. */
export async function askJudge(
  policy: Policy,
  questions: readonly Question[],
  options: AskOptions,
  counts: SearchCounts,
): Promise<Answer[]> {
  const { mode } = options.judge;
  const answers = questions.map((): Answer => ({ winner: 'invalid', pFirst: null }));
  const prompts = new PathForest();
  const asked: number[] = [];
  const limit = policy.engine.info.maxPositions - (mode === 'critique' ? 1 : 0);
  for (const [i, { view }] of questions.entries()) {
    const parts = policy.prompts.judgeParts(view, mode === 'readout');
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    if (length > limit) continue;
    prompts.add(parts);
    asked.push(i);
    counts.judge_prompt_tokens += length;
  }
  if (asked.length === 0) return answers;
  const { forest, nodes } = prompts.build();
  const { tree } = policy.engine;
  const first = tree.plant(forest);
  const ends = Array.from(nodes, (node) => first + node);
  const write = mode === 'readout' ? readLabels : writeCritiques;
  const of = asked.map((i) => questions[i] as Question);
  const answering = write(policy, ends, of, options, counts);
  // The request holds each question until it is answered, and its keys and values no longer than that.
  tree.release(Array.from(forest.parents, (_, s) => first + s));
  for (const [k, answer] of (await answering).entries()) answers[asked[k] as number] = answer;
  return answers;
}

async function readLabels(
  policy: Policy,
  nodes: NodeNumber[],
  questions: readonly Question[],
  { signal, priority = 0 }: AskOptions,
): Promise<Answer[]> {
  const labels = Int32Array.from(policy.prompts.labelIds());
  const logprobs = await policy.engine.tree.readout(nodes, labels, { signal, priority });
  return questions.map((_, k) => readoutVerdict(logprobs[2 * k] as number, logprobs[2 * k + 1] as number));
}

async function writeCritiques(
  policy: Policy,
  nodes: NodeNumber[],
  questions: readonly Question[],
  { judge, seed, signal, priority = 0 }: AskOptions,
  counts: SearchCounts,
): Promise<Answer[]> {
  const { verdicts } = policy.prompts.format;
  const { tree } = policy.engine;
  const result = await tree.fork(
    nodes,
    {
      samples: 1,
      seed,
      treeKeys: BigUint64Array.from(questions, ({ key }) => key),
      steps: Int32Array.from(questions, ({ step }) => step),
      temperature: judge.temperature,
      topP: judge.top_p,
      topK: judge.top_k,
      minP: judge.min_p,
      maxNewTokens: judge.max_tokens,
      eosIds: Int32Array.from(policy.prompts.eosIds),
      stop: [verdicts.a, verdicts.b],
    },
    { signal, priority },
  );
  tree.release(questions.map((_, k) => result.firstNode + k));
  counts.judge_generated_tokens += result.tokens.length;
  return questions.map((_, k) => {
    const [start, end] = [result.offsets[k] as number, result.offsets[k + 1] as number];
    const pieces = policy.text.pieces(result.tokens.subarray(start, end));
    const text = Buffer.concat(pieces).toString('utf8');
    const verdict = parseVerdict(text, verdicts);
    const pFirst = readPFirst(verdict, text, verdicts, pieces, result.logprobs.subarray(start, end));
    return { winner: verdict.winner, pFirst, ...(judge.record_critiques ? { critique: text } : {}) };
  });
}
