// Searched trees to preference data: pairs.jsonl lines that TRL loads as they are, and trees for training, where the
// accepted path is the trunk and each rejected step a leaf beside the chosen one.

import type { SelectConfig } from '../config/recipe.js';
import { mostWins } from '../judge/tally.js';
import type { TokenText } from '../prompts/token-text.js';
import type { PreferenceTree } from '../training/types.js';
import type { SearchRecord, StepRecord } from './search-record.js';
import type { RecordId } from './types.js';

/** A line of pairs.jsonl. Texts hold special tokens written out, so that tokenising them gives the ids. */
export interface PairRecord {
  /** The problem's id; with `step` it names the pair. */
  id: RecordId;
  /** Index of the step in its search.jsonl line. */
  step: number;
  prompt: string;
  chosen: string;
  rejected: string;
  prompt_ids: number[];
  chosen_ids: number[];
  rejected_ids: number[];
  /** Wins of the chosen less wins of the rejected. */
  margin: number;
  weight: number;
}

type PairedStep = StepRecord & { rejected: number };

export function pairRecords(record: SearchRecord, text: TokenText, weigh: SelectConfig['pair_weight']): PairRecord[] {
  const pairs: PairRecord[] = [];
  const prompt = [...record.prompt_ids];
  for (const [i, step] of record.steps.entries()) {
    const chosen = idsOf(step, step.chosen);
    if (hasPair(step)) {
      const rejected = idsOf(step, step.rejected);
      pairs.push({
        id: record.id,
        step: i,
        prompt: text.decodeAll(prompt),
        chosen: text.decodeAll(chosen),
        rejected: text.decodeAll(rejected),
        prompt_ids: [...prompt],
        chosen_ids: chosen,
        rejected_ids: rejected,
        margin: marginOf(step),
        weight: weightOf(step, weigh),
      });
    }
    for (const id of chosen) prompt.push(id);
  }
  return pairs;
}

/** The tree to train on, up to its last pair; undefined where it has none. */
export function preferenceTree(record: SearchRecord, weigh: SelectConfig['pair_weight']): PreferenceTree | undefined {
  const last = record.steps.findLastIndex(hasPair);
  if (last < 0) return undefined;
  return {
    id: String(record.id),
    promptIds: record.prompt_ids,
    steps: record.steps.slice(0, last + 1).map((step) => ({
      chosenIds: idsOf(step, step.chosen),
      rejected: hasPair(step) ? [{ ids: idsOf(step, step.rejected), weight: weightOf(step, weigh) }] : [],
    })),
  };
}

function hasPair(step: StepRecord): step is PairedStep {
  return step.rejected !== null;
}

function idsOf(step: StepRecord, index: number): number[] {
  return step.candidates[index]?.ids ?? [];
}

function marginOf(step: PairedStep): number {
  return (step.candidates[step.chosen]?.wins ?? 0) - (step.candidates[step.rejected]?.wins ?? 0);
}

/** margin: wins apart over the most there can be. */
function weightOf(step: PairedStep, weigh: SelectConfig['pair_weight']): number {
  return weigh === 'one' ? 1 : marginOf(step) / Math.max(1, mostWins(step));
}
