// Whether two answers are the same. The plain comparisons here are exact and instant; expressions and lists are
// compared by equivalent(), which grader.ts runs where it can be killed.

import { evaluate, variablesOf } from './expression.js';
import { normalizeAnswer } from './normalize.js';
import { parseQuantity } from './quantity.js';

/** true or false where text or plain numbers decide, undefined where the answers are more than that. */
export function gradePlain(predicted: string, gold: string): boolean | undefined {
  const [a, b] = [normalizeAnswer(predicted), normalizeAnswer(gold)];
  if (a === '' || b === '') return false;
  if (bare(a) === bare(b)) return true;
  const [x, y] = [parseQuantity(predicted), parseQuantity(gold)];
  if (!x || !y) return undefined;
  // A unit that is left out is no mistake; another one is.
  if (x.unit !== '' && y.unit !== '' && x.unit !== y.unit) return false;
  return x.value.numerator === y.value.numerator && x.value.denominator === y.value.denominator;
}

function bare(text: string): string {
  // A space between digits stays: "1 1/2" is not 11/2.
  return text.replace(/(?<!\d)\s+|\s+(?!\d)/g, '').toLowerCase();
}

/** Fixed points for comparing expressions with variables: nothing special happens there. */
const POINTS = [0.731, 1.913, 2.617, 3.371];
const TOLERANCE = 1e-9;

/** Compares expressions by value, at fixed points where they have variables, and lists, tuples and intervals by part. */
export function equivalent(predicted: string, gold: string): boolean {
  const [a, b] = [normalizeAnswer(predicted), normalizeAnswer(gold)];
  const [x, y] = [partsOf(a), partsOf(b)];
  if (x.parts.length !== y.parts.length || x.open !== y.open || x.close !== y.close) return false;
  if (x.parts.length === 1 && x.open === '') return sameValue(a, b);
  return x.parts.every((part, i) => {
    const other = y.parts[i] as string;
    return gradePlain(part, other) ?? sameValue(part, other);
  });
}

function sameValue(a: string, b: string): boolean {
  const [names, others] = [variablesOf(a), variablesOf(b)];
  if (!names || !others || names.join() !== others.join()) return false;
  const points = names.length === 0 ? [0] : POINTS;
  return points.every((point) => {
    const values = new Map(names.map((name, i) => [name, point * (1 + 0.37 * i)]));
    const [x, y] = [evaluate(a, values), evaluate(b, values)];
    if (x === null || y === null || !Number.isFinite(x) || !Number.isFinite(y)) return false;
    return Math.abs(x - y) <= TOLERANCE * Math.max(1, Math.abs(x), Math.abs(y));
  });
}

interface Parts {
  open: string;
  close: string;
  parts: string[];
}

/** Cuts "(1, 2)", "\{1, 2\}" or "1, 2" at its top-level commas. Without one the text is a single part. */
function partsOf(text: string): Parts {
  const plain = text.replace(/\\([{}])/g, (_, brace: string) => (brace === '{' ? '<' : '>'));
  const enclosed = /^([([<])(.*)([)\]>])$/s.exec(plain);
  const inner = cutAtCommas(enclosed ? (enclosed[2] as string) : plain);
  if (inner.length > 1 && enclosed) return { open: enclosed[1] as string, close: enclosed[3] as string, parts: inner };
  return { open: '', close: '', parts: enclosed ? cutAtCommas(plain) : inner };
}

function cutAtCommas(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    const character = text[i] as string;
    if ('([{<'.includes(character)) depth++;
    else if (')]}>'.includes(character)) depth--;
    else if (character === ',' && depth === 0) {
      parts.push(text.slice(start, i).trim());
      start = i + 1;
    }
  }
  return [...parts, text.slice(start).trim()];
}
