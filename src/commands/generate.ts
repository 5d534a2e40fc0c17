// `stepward generate`: sampled continuations of prompts. A record's samples depend on the seed and its id, not on the
// rest of the file.

import type { Command } from 'commander';
import { finishOf } from '../data/finish.js';
import { checkFolder } from '../data/folder.js';
import { PrefixForest } from '../data/forest.js';
import { float32 } from '../data/jsonl.js';
import type { GenerateRecord } from '../data/records.js';
import { treeKey } from '../data/tree-key.js';
import { StepwardError } from '../errors.js';
import type { GenerateResult } from '../native/types.js';
import {
  addCutOptions,
  addModelOptions,
  addRolloutOptions,
  type CommandContext,
  type CutOptions,
  checkInput,
  type ModelOptions,
  number,
  type OpenModel,
  openEngine,
  peakBytes,
  type RolloutOptions,
  repeatable,
  runCommand,
  wholeNumber,
} from './shared.js';

export interface GenerateCommandOptions extends ModelOptions, RolloutOptions, CutOptions {
  input: string;
  output: string;
  samples: number;
  temperature: number;
  minNewTokens: number;
  maxNewTokens: number;
  stop?: string[];
}

export function registerGenerate(program: Command): void {
  const command = program
    .command('generate')
    .description('continue prompts: {id, prompt|prompt_ids}')
    .requiredOption('--input <file>', 'records, JSON lines')
    .requiredOption('--output <file>', 'results, JSON lines')
    .option('--samples <n>', 'continuations per prompt', wholeNumber(1), 1)
    .option('--temperature <t>', '0: greedy', number(0), 1);
  addCutOptions(command)
    .option('--min-new-tokens <n>', 'no EOS before this many tokens', wholeNumber(0), 0)
    .option('--max-new-tokens <n>', 'most tokens of a continuation', wholeNumber(1), 256)
    .option('--stop <text>', 'end a continuation once it holds this text; may be repeated', repeatable);
  addModelOptions(addRolloutOptions(command)).action(runCommand(run));
}

/** Continuations in flight at most; the engine cuts them further by its cache budget. */
const BATCH_ROWS = 2048;

export async function run(options: GenerateCommandOptions, context: CommandContext): Promise<object> {
  const [{ readGenerateRecords }, { writeJsonlFile }, { Progress }, { rolloutSummary }] = await Promise.all([
    import('../data/records.js'),
    import('./output.js'),
    import('../progress.js'),
    import('../native/rollout-summary.js'),
  ]);
  checkOptions(options);
  checkFolder('--model', options.model);
  checkInput('--input', options.input);
  const model = await openEngine(options, context);
  try {
    const records = await readGenerateRecords(options.input, model.limits);
    if (options.stop) await passTokenBytes(model);
    const before = await model.engine.tree.counters();
    const start = performance.now();
    const progress = new Progress({ label: 'generate', total: records.length * options.samples, unit: 'outputs' });
    const perCall = Math.max(1, Math.floor(BATCH_ROWS / options.samples));
    const counts = { generated: 0, computed: 0, prefixFree: 0 };
    await writeJsonlFile(options.output, async (writer) => {
      for (let done = 0; done < records.length; done += perCall) {
        const batch = records.slice(done, done + perCall);
        const result = await generateBatch(model, batch, options, context.signal, (rows) =>
          progress.update(done * options.samples + rows),
        );
        for (const [i, record] of batch.entries()) {
          writer.write({ id: record.id, outputs: outputsOf(result, i, options.samples, model) });
        }
        counts.generated += result.tokens.length;
        counts.computed += result.computedTokens;
        counts.prefixFree += result.prefixFreeTokens;
        progress.update((done + batch.length) * options.samples);
      }
    });
    progress.finish();
    return {
      records: records.length,
      prompt_tokens: records.reduce((sum, { promptIds }) => sum + promptIds.length, 0),
      generated_tokens: counts.generated,
      computed_tokens: counts.computed,
      prefix_free_tokens: counts.prefixFree,
      rollout: rolloutSummary(before, await model.engine.tree.counters()),
      seconds: (performance.now() - start) / 1000,
      load_seconds: model.loadSeconds,
      peak_bytes: peakBytes(),
    };
  } finally {
    await model.engine.dispose();
  }
}

function checkOptions(options: GenerateCommandOptions): void {
  if (options.minNewTokens > options.maxNewTokens) {
    throw invalid(
      `--min-new-tokens: expected at most --max-new-tokens (${options.maxNewTokens}), got ${options.minNewTokens}`,
    );
  }
  if (options.stop?.includes('')) throw invalid('--stop: expected a text, got an empty one');
}

async function passTokenBytes({ engine, codec, limits }: OpenModel): Promise<void> {
  if (!codec) throw invalid(`--stop: expected a model with a tokenizer, and ${limits.directory} has no tokenizer.json`);
  const { bytes, offsets } = codec.tokenBytes(limits.vocabSize);
  await engine.setTokenBytes(bytes, offsets);
}

function invalid(message: string): StepwardError {
  return new StepwardError('INVALID_ARGUMENT', message);
}

function generateBatch(
  { engine, codec }: OpenModel,
  records: GenerateRecord[],
  options: GenerateCommandOptions,
  signal: AbortSignal,
  onProgress: (rows: number) => void,
): Promise<GenerateResult> {
  const prefixes = new PrefixForest();
  for (const [i, { promptIds }] of records.entries()) prefixes.add(promptIds, i);
  const { forest, nodes } = prefixes.build();
  const { samples, seed, temperature, topP, topK, minP, minNewTokens, maxNewTokens, stop } = options;
  return engine.generate(
    {
      forest,
      nodes,
      samples,
      seed,
      treeKeys: BigUint64Array.from(records, ({ id }) => treeKey(id)),
      temperature,
      topP,
      topK,
      minP,
      minNewTokens,
      maxNewTokens,
      ...(codec && { eosIds: Int32Array.from(codec.eosIds) }),
      ...(stop && { stop }),
    },
    { signal, onProgress },
  );
}

function outputsOf(result: GenerateResult, record: number, samples: number, { codec }: OpenModel): object[] {
  return Array.from({ length: samples }, (_, s) => {
    const row = record * samples + s;
    const [from, to] = [result.offsets[row], result.offsets[row + 1]];
    const ids = result.tokens.slice(from, to);
    const logprob = float32([...result.logprobs.subarray(from, to)].reduce((sum, value) => sum + value, 0));
    return { ids, text: codec?.decode(ids) ?? null, logprob, finish: finishOf(result.finish[row]) };
  });
}
