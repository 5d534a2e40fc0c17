// The records of `dpo`: pairs as text or ids, Step-DPO's form, and whole trees. All become PreferenceTrees. Text
// completions get no special tokens and no EOS: only a step that ended its solution has one, and then in its text or ids.

import { z } from 'zod';
import { StepwardError } from '../errors.js';
import type { PreferenceStep, PreferenceTree } from '../training/types.js';
import { LengthLimit } from './length.js';
import { idField, idsField, promptOf, type RecordLimits, type RecordReader, readRecords } from './records.js';

const weight = z.number().min(0).optional();
const mix = z.number().min(0).max(1).optional();
const prompt = { prompt: z.string().optional(), prompt_ids: idsField.optional() };

const pairSchema = z.looseObject({
  id: idField,
  ...prompt,
  initial_reason_steps: z.string().optional(),
  chosen: z.string().optional(),
  chosen_ids: idsField.optional(),
  rejected: z.string().optional(),
  rejected_ids: idsField.optional(),
  weight,
  mix,
  /** Index of the step that the pair judges, as pairs.jsonl has it. Anything else that is called so is left alone. */
  step: z.unknown().optional(),
});

const stepSchema = z.looseObject({
  chosen: z.string().optional(),
  chosen_ids: idsField.optional(),
  rejected: z.array(z.looseObject({ text: z.string().optional(), ids: idsField.optional(), weight, mix })).default([]),
});

const treeSchema = z.looseObject({ id: idField, ...prompt, steps: z.array(stepSchema).min(1) });

type PairRecord = z.infer<typeof pairSchema>;
type TreeRecord = z.infer<typeof treeSchema>;

/**
 * Trees in file order. `length`: default refuses what is longer than the model's positions. Throws INVALID_DATA,
 * TOKEN_OUT_OF_RANGE and CONTEXT_TOO_LONG naming file, line and field.
 */
export async function readPreferenceTrees(
  path: string,
  limits: RecordLimits,
  length = LengthLimit.of(limits.maxPositions),
): Promise<PreferenceTree[]> {
  const trees: PreferenceTree[] = [];
  const schemaOf = (value: Record<string, unknown>): z.ZodType<PairRecord | TreeRecord> =>
    'steps' in value ? treeSchema : pairSchema;
  for await (const reader of readRecords(path, limits, schemaOf)) {
    const tree =
      'steps' in reader.record
        ? readTree(reader as RecordReader<TreeRecord>, length)
        : readPair(reader as RecordReader<PairRecord>, length);
    const { id } = reader.record;
    if (tree) trees.push(id === undefined ? tree : { ...tree, id: String(id) });
  }
  if (trees.length === 0) {
    throw new StepwardError('INVALID_DATA', `${path}: expected a pair that fits, ${length.remark() ?? 'got none'}`);
  }
  return trees;
}

function readPair(reader: RecordReader<PairRecord>, length: LengthLimit): PreferenceTree | undefined {
  const { record } = reader;
  const promptIds = promptOf(reader);
  const context = record.initial_reason_steps
    ? [...promptIds, ...reader.text('initial_reason_steps', record.initial_reason_steps)]
    : promptIds;
  const chosen = reader.required('chosen', record.chosen, record.chosen_ids);
  const rejected = reader.required('rejected', record.rejected, record.rejected_ids);
  differ(reader, 'rejected', chosen, rejected);
  const longest = Math.max(chosen.length, rejected.length);
  if (!reader.fits('record', { prompt: context.length, 'longer completion': longest }, length)) {
    length.droppedPairs++;
    return undefined;
  }
  const known = Number.isSafeInteger(record.step) && (record.step as number) >= 0;
  return {
    promptIds: context,
    firstStep: known ? (record.step as number) : null,
    steps: [{ chosenIds: chosen, rejected: [withShares(rejected, record)] }],
  };
}

/** Steps from the first that is too long are cut: the steps after it stand on its chosen one. */
function readTree(reader: RecordReader<TreeRecord>, length: LengthLimit): PreferenceTree | undefined {
  const { record } = reader;
  const promptIds = promptOf(reader);
  const steps: PreferenceStep[] = [];
  let context = promptIds.length;
  let pairs = 0;
  let cut = false;
  for (const [k, step] of record.steps.entries()) {
    const name = `steps[${k}].`;
    const chosenIds = reader.required(`${name}chosen`, step.chosen, step.chosen_ids);
    const rejected = step.rejected.map((candidate, i) => {
      const field = `${name}rejected[${i}]`;
      const { ids, text } = candidate;
      if (ids) {
        reader.checkIds(`${field}.ids`, ids);
        if (text !== undefined) reader.checkSame(`${field}.ids`, ids, `${field}.text`, text);
      }
      const given = ids ?? (text === undefined ? undefined : reader.text(`${field}.text`, text));
      if (!given) throw reader.error(field, 'expected the key ids or text, found neither');
      reader.notEmpty(field, given);
      differ(reader, field, chosenIds, given);
      return withShares(given, candidate);
    });
    const longest = rejected.reduce((length, { ids }) => Math.max(length, ids.length), chosenIds.length);
    pairs += rejected.length;
    cut ||= !reader.fits(`steps[${k}]`, { 'prompt and steps before': context, 'longest candidate': longest }, length);
    if (cut) {
      length.cutSteps++;
      length.droppedPairs += rejected.length;
      continue;
    }
    steps.push({ chosenIds, rejected });
    context += chosenIds.length;
  }
  if (pairs === 0) throw reader.error('steps', 'expected at least one rejected step, got none');
  return steps.some(({ rejected }) => rejected.length > 0) ? { promptIds, steps } : undefined;
}

function differ<T>(reader: RecordReader<T>, field: string, chosen: number[], rejected: number[]): void {
  if (chosen.length === rejected.length && chosen.every((id, i) => id === rejected[i])) {
    throw reader.error(field, `expected other tokens than chosen, got the same ${chosen.length}`);
  }
}

function withShares(
  ids: number[],
  { weight, mix }: { weight?: number | undefined; mix?: number | undefined },
): PreferenceStep['rejected'][number] {
  return { ids, ...(weight !== undefined && { weight }), ...(mix !== undefined && { mix }) };
}
