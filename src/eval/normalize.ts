// Two spellings of one answer brought to the same text: LaTeX dressing, units, thousands separators, spaces.

const LONGEST = 2000;

/** The answer without dressing. Works on at most 2000 characters; a longer answer is returned as it is. */
export function normalizeAnswer(answer: string): string {
  if (answer.length > LONGEST) return answer;
  let text = answer.trim();
  text = text.replace(/^\$+|\$+$/g, '').replace(/\\[()[\]]/g, '');
  text = text.replace(/\\(?:left|right|displaystyle|limits)(?![a-zA-Z])/g, '');
  text = text.replace(/\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}/g, '$1');
  text = text.replace(/\\[dt]frac/g, '\\frac').replace(/\\frac\s*(\d)\s*(\d)/g, '\\frac{$1}{$2}');
  text = text.replace(/\\sqrt\s*(\d)/g, '\\sqrt{$1}');
  text = text
    .replace(/\\!/g, '')
    .replace(/\{,\}/g, ',')
    .replace(/(\d)\\,(?=\d{3}(?:\D|$))/g, '$1');
  text = text.replace(/\\[,;: ]|~|\\quad/g, ' ').replace(/\\%|%|\\\$|\$/g, '');
  text = text.replace(/\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°/g, '');
  text = text
    .replace(/\\(?:cdot|times)(?![a-zA-Z])/g, '*')
    .replace(/×|·/g, '*')
    .replace(/−/g, '-');
  text = text.replace(/^[a-zA-Z]\s*=(?!=)/, '').replace(/(\d),(?=\d{3}(?:\D|$))/g, '$1');
  text = text
    .replace(/[\s.]+$/, '')
    .replace(/\s+/g, ' ')
    .trim();
  return text;
}

/** An exact fraction, the denominator above 0 and both without common factors. */
export interface Rational {
  numerator: bigint;
  denominator: bigint;
}

const NUMBER = String.raw`(\d+\.?\d*|\.\d+)`;
const DECIMAL = new RegExp(`^([+-]?)${NUMBER}$`);
const FRACTION = /^([+-]?)\s*(?:(\d+)\s+)?(?:(\d+)\s*\/\s*(\d+)|\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\})$/;
const MIXED = /^([+-]?)\s*(\d+)\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}$/;
const MOST_DIGITS = 200;

/** The number in a normalised answer: integer, decimal, fraction or mixed number of at most 200 characters; else null. */
export function parseRational(text: string): Rational | null {
  if (text.length > MOST_DIGITS) return null;
  const decimal = DECIMAL.exec(text);
  if (decimal) {
    const [whole = '', part = ''] = (decimal[2] as string).split('.');
    return reduce(decimal[1] === '-', BigInt(`${whole}${part}` || '0'), 10n ** BigInt(part.length));
  }
  const mixed = MIXED.exec(text);
  const found = mixed ? [mixed[1], mixed[2], mixed[3], mixed[4]] : fraction(text);
  if (!found) return null;
  const [sign, whole, above, below] = found;
  const denominator = BigInt(below as string);
  return reduce(sign === '-', BigInt(whole ?? '0') * denominator + BigInt(above as string), denominator);
}

function fraction(text: string): (string | undefined)[] | null {
  const found = FRACTION.exec(text);
  return found && [found[1], found[2], found[3] ?? found[5], found[4] ?? found[6]];
}

function reduce(negative: boolean, numerator: bigint, denominator: bigint): Rational | null {
  if (denominator === 0n) return null;
  let [a, b] = [numerator, denominator];
  while (b !== 0n) [a, b] = [b, a % b];
  const divisor = a === 0n ? 1n : a;
  const value = numerator / divisor;
  return { numerator: negative ? -value : value, denominator: denominator / divisor };
}
