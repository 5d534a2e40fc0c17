// Finding the final answer in a solution, and in a gold answer that comes with its own solution.

import type { AnswerFormat } from '../prompts/format.js';

/** The final answer by the format's ways in their order, or null. */
export function extractAnswer(solution: string, format: AnswerFormat): string | null {
  for (const way of format.find) {
    const found =
      way === 'boxed'
        ? boxed(solution)
        : way === 'marker'
          ? afterMarker(solution, format.markers)
          : lastNumber(solution);
    if (found !== null && found !== '') return found;
  }
  return null;
}

/** A gold answer as data sets write it: bare, after GSM8K's ####, or boxed in a solution. */
export function goldAnswer(answer: string): string {
  return afterMarker(answer, ['####']) ?? boxed(answer) ?? answer.trim();
}

/** Content of the last \boxed{...} or \fbox{...} with balanced braces. */
function boxed(text: string): string | null {
  const start = Math.max(text.lastIndexOf('\\boxed'), text.lastIndexOf('\\fbox'));
  if (start < 0) return null;
  const open = text.indexOf('{', start);
  const name = text.startsWith('\\boxed', start) ? '\\boxed' : '\\fbox';
  if (text.slice(start + name.length, open < 0 ? undefined : open).trim() !== '') {
    // "\boxed 5": one word without braces.
    return (
      text
        .slice(start + name.length)
        .trim()
        .split(/\s/)[0]
        ?.replace(/[$.]+$/, '') ?? null
    );
  }
  let depth = 0;
  for (let i = open; i >= 0 && i < text.length; i++) {
    if (text[i] === '{') depth++;
    else if (text[i] === '}' && --depth === 0) return text.slice(open + 1, i).trim();
  }
  return null;
}

/** What follows the last of the markers, to the end of its line. */
function afterMarker(text: string, markers: readonly string[]): string | null {
  let at = -1;
  for (const marker of markers) {
    const found = text.lastIndexOf(marker);
    if (found >= 0) at = Math.max(at, found + marker.length);
  }
  if (at < 0) return null;
  const line = text.slice(at).split('\n')[0] as string;
  // "**Answer:** 7", "Answer: **7**." and the like: Markdown around it is no part of the answer.
  return line.replace(/^[\s:*`]+/, '').replace(/[\s.*`]+$/, '');
}

function lastNumber(text: string): string | null {
  return (
    text
      .match(/(?<!\d)-?\d[\d,]*(?:\.\d+)?(?:\s*\/\s*\d+)?/g)
      ?.at(-1)
      ?.replace(/,+$/, '') ?? null
  );
}
