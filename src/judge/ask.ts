// Puts many questions to the judge in one batch: by sampling a critique up to its verdict, or by reading the label
// probabilities. Questions of the same problem share their prompt's prefix. What the answers mean is for tally.ts.

import type { JudgeConfig } from '../config/recipe.js';
import { PrefixForest } from '../data/forest.js';
import type { Policy } from '../loop/policy.js';
import type { SearchCounts, Winner } from '../loop/types.js';
import type { JudgeView } from '../prompts/compile.js';
import { parseVerdict, readoutVerdict, readPFirst } from './verdict.js';

export interface Question {
  view: JudgeView;
  /** Questions of one group share prefixes: the problem's id. */
  group: string;
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
  signal?: AbortSignal;
  onProgress?(done: number, total: number): void;
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
  const forest = new PrefixForest();
  const asked: number[] = [];
  const limit = policy.engine.info.maxPositions - (mode === 'critique' ? 1 : 0);
  for (const [i, { view, group }] of questions.entries()) {
    const ids = policy.prompts.judge(view, mode === 'readout');
    if (ids.length > limit) continue;
    forest.add(ids, group);
    asked.push(i);
    counts.judge_prompt_tokens += ids.length;
  }
  if (asked.length === 0) return answers;
  const { forest: data, nodes } = forest.build();
  const write = mode === 'readout' ? readLabels : writeCritiques;
  const got = await write(policy, { data, nodes, of: asked.map((i) => questions[i] as Question) }, options, counts);
  for (const [k, answer] of got.entries()) answers[asked[k] as number] = answer;
  return answers;
}

interface Asked {
  data: ReturnType<PrefixForest['build']>['forest'];
  nodes: Int32Array;
  of: Question[];
}

async function readLabels(policy: Policy, asked: Asked, options: AskOptions, counts: SearchCounts): Promise<Answer[]> {
  const labels = Int32Array.from(policy.prompts.labelIds());
  const result = await policy.engine.readout(asked.data, asked.nodes, labels, options.signal);
  counts.computed_tokens += result.computedTokens;
  counts.prefix_free_tokens += result.prefixFreeTokens;
  options.onProgress?.(asked.of.length, asked.of.length);
  return asked.of.map((_, k) => readoutVerdict(result.logprobs[2 * k] as number, result.logprobs[2 * k + 1] as number));
}

async function writeCritiques(
  policy: Policy,
  asked: Asked,
  options: AskOptions,
  counts: SearchCounts,
): Promise<Answer[]> {
  const { judge, seed, signal, onProgress } = options;
  const { verdicts } = policy.prompts.format;
  const total = asked.of.length;
  const result = await policy.engine.generate(
    {
      forest: asked.data,
      nodes: asked.nodes,
      samples: 1,
      seed,
      treeKeys: BigUint64Array.from(asked.of, ({ key }) => key),
      steps: Int32Array.from(asked.of, ({ step }) => step),
      temperature: judge.temperature,
      topP: judge.top_p,
      topK: judge.top_k,
      maxNewTokens: judge.max_tokens,
      eosIds: Int32Array.from(policy.prompts.eosIds),
      stop: [verdicts.a, verdicts.b],
    },
    { signal, onProgress: (done) => onProgress?.(done, total) },
  );
  counts.computed_tokens += result.computedTokens;
  counts.prefix_free_tokens += result.prefixFreeTokens;
  counts.judge_generated_tokens += result.tokens.length;
  return asked.of.map((_, k) => {
    const [start, end] = [result.offsets[k] as number, result.offsets[k + 1] as number];
    const pieces = policy.text.pieces(result.tokens.subarray(start, end));
    const text = Buffer.concat(pieces).toString('utf8');
    const verdict = parseVerdict(text, verdicts);
    const pFirst = readPFirst(verdict, text, verdicts, pieces, result.logprobs.subarray(start, end));
    return { winner: verdict.winner, pFirst, ...(judge.record_critiques ? { critique: text } : {}) };
  });
}
