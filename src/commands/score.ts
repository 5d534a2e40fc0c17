// `stepward score`: log-probs of steps and candidates, each record one tree.

import type { Command } from 'commander';
import { checkFolder } from '../data/folder.js';
import { type RadixEnd, RadixForest } from '../data/forest.js';
import { float32 } from '../data/jsonl.js';
import type { ScoreRecord } from '../data/records.js';
import type { EngineLike } from '../native/types.js';
import {
  addModelOptions,
  addRolloutOptions,
  type CommandContext,
  checkInput,
  type ModelOptions,
  openEngine,
  peakBytes,
  type RolloutOptions,
  runCommand,
} from './shared.js';

export interface ScoreCommandOptions extends ModelOptions, RolloutOptions {
  input: string;
  output: string;
}

export function registerScore(program: Command): void {
  const command = program
    .command('score')
    .description(
      'log-probs of steps and candidates: {id, prompt|prompt_ids, steps|steps_ids, candidates|candidates_ids}',
    )
    .requiredOption('--input <file>', 'records, JSON lines')
    .requiredOption('--output <file>', 'results, JSON lines');
  addModelOptions(addRolloutOptions(command)).action(runCommand(run));
}

/** Tokens of records taken together; one native call each. */
const BATCH_TOKENS = 65_536;

export async function run(options: ScoreCommandOptions, context: CommandContext): Promise<object> {
  const [{ readScoreRecords }, { writeJsonlFile }, { Progress }, { rolloutSummary }] = await Promise.all([
    import('../data/records.js'),
    import('./output.js'),
    import('../progress.js'),
    import('../native/rollout-summary.js'),
  ]);
  checkFolder('--model', options.model);
  checkInput('--input', options.input);
  const model = await openEngine(options, context);
  try {
    const records = await readScoreRecords(options.input, model.limits);
    const before = await model.engine.tree.counters();
    const start = performance.now();
    const progress = new Progress({ label: 'score', total: records.length, unit: 'records' });
    let scoredTokens = 0;
    let computedTokens = 0;
    let done = 0;
    await writeJsonlFile(options.output, async (writer) => {
      for (const batch of cutByTokens(records)) {
        const result = await scoreRecords(model.engine, batch, context.signal);
        for (const line of result.lines) writer.write(line);
        scoredTokens += result.scoredTokens;
        computedTokens += result.computedTokens;
        done += batch.length;
        progress.update(done);
      }
    });
    progress.finish();
    return {
      records: records.length,
      scored_tokens: scoredTokens,
      computed_tokens: computedTokens,
      rollout: rolloutSummary(before, await model.engine.tree.counters()),
      seconds: (performance.now() - start) / 1000,
      load_seconds: model.loadSeconds,
      peak_bytes: peakBytes(),
    };
  } finally {
    await model.engine.dispose();
  }
}

function* cutByTokens(records: ScoreRecord[]): Generator<ScoreRecord[]> {
  let batch: ScoreRecord[] = [];
  let tokens = 0;
  for (const record of records) {
    const size = [record.promptIds, ...record.steps, ...record.candidates].reduce((sum, ids) => sum + ids.length, 0);
    if (batch.length > 0 && tokens + size > BATCH_TOKENS) {
      yield batch;
      batch = [];
      tokens = 0;
    }
    batch.push(record);
    tokens += size;
  }
  if (batch.length > 0) yield batch;
}

interface Scored {
  logprob: number;
  token_logprobs: Float32Array;
}

interface ScoreLine {
  id: string | number;
  steps: Scored[];
  candidates: Scored[];
}

/** One forest, one call. Step k follows the prompt and the steps before it; candidates follow all steps. */
export async function scoreRecords(
  engine: EngineLike,
  records: ScoreRecord[],
  signal?: AbortSignal,
): Promise<{ lines: ScoreLine[]; scoredTokens: number; computedTokens: number }> {
  const radix = new RadixForest();
  const spans = records.map((record, i) => {
    let end: RadixEnd = radix.insert(record.promptIds, i);
    const after = (from: RadixEnd, ids: number[]) => ({ from, to: radix.insert(ids, i, from) });
    const steps = record.steps.map((ids) => {
      const span = after(end, ids);
      end = span.to;
      return span;
    });
    return { steps, candidates: record.candidates.map((ids) => after(end, ids)) };
  });
  const { forest, indexOf } = radix.build();
  const segmentsOf = ({ from, to }: { from: RadixEnd; to: RadixEnd }): number[] =>
    RadixForest.path(to, from).map((node) => indexOf.get(node) as number);
  const scored = new Uint8Array(forest.parents.length);
  for (const { steps, candidates } of spans) {
    for (const span of [...steps, ...candidates]) for (const segment of segmentsOf(span)) scored[segment] = 1;
  }
  const result = await engine.score(forest, scored, signal ? { signal } : {});
  let scoredTokens = 0;
  const read = (span: { from: RadixEnd; to: RadixEnd }): Scored => {
    const values = segmentsOf(span).flatMap((s) => [
      ...result.logprobs.subarray(forest.offsets[s], forest.offsets[s + 1]),
    ]);
    scoredTokens += values.length;
    return {
      logprob: float32(values.reduce((sum, value) => sum + value, 0)),
      token_logprobs: Float32Array.from(values),
    };
  };
  const lines = spans.map(({ steps, candidates }, i) => ({
    id: (records[i] as ScoreRecord).id,
    steps: steps.map(read),
    candidates: candidates.map(read),
  }));
  return { lines, scoredTokens, computedTokens: result.computedTokens };
}
