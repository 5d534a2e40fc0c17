// Verdicts that could not be read: what to say where they are most of all. A judge that is not understood looks like one
// at chance, and is mended otherwise.

import type { JudgeConfig } from '../config/recipe.js';
import type { SearchCounts } from '../loop/types.js';

/** A remark where at least half of the verdicts could not be read, else undefined. */
export function unreadVerdicts(
  { verdicts, parse_failures: unread }: Pick<SearchCounts, 'verdicts' | 'parse_failures'>,
  { mode, max_tokens: most }: Pick<JudgeConfig, 'mode' | 'max_tokens'>,
): string | undefined {
  if (unread === 0 || 2 * unread < verdicts) return undefined;
  const why =
    mode === 'critique'
      ? `its critiques name no winner within ${most} tokens (the judge's max_tokens; mode readout needs no critique)`
      : "the questions are longer than the model's positions";
  return `${unread} of ${verdicts} verdicts of the judge could not be read: ${why}`;
}
