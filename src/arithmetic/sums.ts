// One addition or subtraction of whole numbers, column by column: the right result, the result of someone who forgets
// every carry and borrow, and the written working that the judge shows.

export type Operator = '+' | '-';

/** `left op right`, both whole numbers, `left >= right` for a subtraction. */
export interface Sum {
  left: number;
  op: Operator;
  right: number;
}

/** Digits of `value`, ones first, padded with zeros to `width`. */
function columns(value: number, width: number): number[] {
  const digits = [...String(value)].reverse().map(Number);
  while (digits.length < width) digits.push(0);
  return digits;
}

interface Column {
  left: number;
  right: number;
  /** What the column on the right handed over: 1 for a carry or a borrow, else 0. */
  incoming: 0 | 1;
  /** Whether this column hands one to the next. The highest column never does: its carry is simply written down. */
  outgoing: 0 | 1;
  value: number;
}

function work(sum: Sum): Column[] {
  const width = Math.max(String(sum.left).length, String(sum.right).length);
  const lefts = columns(sum.left, width);
  const rights = columns(sum.right, width);
  const result: Column[] = [];
  let incoming: 0 | 1 = 0;
  for (let i = 0; i < width; i++) {
    const left = lefts[i] ?? 0;
    const right = rights[i] ?? 0;
    const raw: number = sum.op === '+' ? left + right + incoming : left - right - incoming;
    const last = i === width - 1;
    const outgoing: 0 | 1 = !last && (raw > 9 || raw < 0) ? 1 : 0;
    const value = sum.op === '+' ? raw : raw + 10 * outgoing;
    result.push({ left, right, incoming, outgoing, value });
    incoming = outgoing;
  }
  return result;
}

export function rightResult(sum: Sum): number {
  return sum.op === '+' ? sum.left + sum.right : sum.left - sum.right;
}

/** True when some column carries into or borrows from the next. */
export function hasCarry(sum: Sum): boolean {
  return work(sum).some((column) => column.outgoing === 1);
}

/** The result when every carry and borrow between columns is forgotten; equals the right one when there is none. */
export function forgetfulResult(sum: Sum): number {
  const digits = work(sum).map((column, i, all) => {
    const raw = sum.op === '+' ? column.left + column.right : column.left - column.right;
    return i === all.length - 1 ? String(raw) : String((raw + 10) % 10);
  });
  return Number(digits.reverse().join(''));
}

/** `45 + 17 = 62`, with any result. */
export function writeSum(sum: Sum, result: number): string {
  return `${sum.left} ${sum.op} ${sum.right} = ${result}`;
}

/**
 * The working, ones first: `5+7=12, 4+1+1=6` or `12-8=4, 6-0-1=5`. A carry is the 1 of a two-digit sum and comes back
 * in the next column; a borrow puts a 1 before the upper digit and comes back as `-1`.
 */
export function writeWorking(sum: Sum): string {
  return work(sum)
    .map((column) => {
      const incoming = column.incoming === 1 ? `${sum.op}1` : '';
      const borrow = sum.op === '-' && column.outgoing === 1 ? '1' : '';
      return `${borrow}${column.left}${sum.op}${column.right}${incoming}=${column.value}`;
    })
    .join(', ');
}
