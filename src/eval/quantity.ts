// Numbers with units: "5\text{ cm}", "42 dollars", "3.5 km/h". Which words are units cannot be known; what is taken for one
// is written as text in LaTeX, or stands after a space and is a word of at least three letters or a common short one.

import { normalizeAnswer, parseRational, type Rational } from './normalize.js';

export interface Quantity {
  value: Rational;
  /** Lower case, without spaces and plural s; empty: a bare number. */
  unit: string;
}

const LONGEST = 200;
const LATEX_UNIT =
  /^(.*[\d}])[\s~]*(?:\\[,;: ])*\s*\\(?:text|textbf|mathrm|mbox)\s*\{([^{}\d]*)\}((?:\^\{?[23]\}?)?)\s*\$*\s*\.?$/s;
const WORD_UNIT = /^(.*[\d}])\$?\s+([a-zA-Z]+(?:[ /.-]+[a-zA-Z]+)*((?:\^\{?[23]\}?)?))\s*\$*\s*\.?$/s;
const SHORT_UNITS = new Set(['cm', 'mm', 'km', 'kg', 'mg', 'ml', 'ft', 'in', 'lb', 'oz', 'hr', 'mi', 'mph', 'kmh']);
/** Words after a number that change it, or join it to something else. */
const NO_UNITS =
  /\b(?:hundred|thousand|million|billion|trillion|dozen|sqrt|sin|cos|tan|log|exp|pi|and|or|to|but|plus|minus|times)\b/i;

/** The number and unit of an answer; null where it is more or something else. Looks at 200 characters at most. */
export function parseQuantity(answer: string): Quantity | null {
  if (answer.length > LONGEST) return null;
  const bare = parseRational(normalizeAnswer(answer));
  if (bare) return { value: bare, unit: '' };
  const latex = LATEX_UNIT.exec(answer.trim());
  const [, number = '', unit = '', power = ''] = latex ?? WORD_UNIT.exec(answer.trim()) ?? [];
  if (unit.trim() === '' || NO_UNITS.test(unit) || (!latex && !isWord(unit))) return null;
  const value = parseRational(normalizeAnswer(number));
  return value && { value, unit: plainUnit(latex ? unit + power : unit) };
}

function isWord(unit: string): boolean {
  const first = (/^[a-zA-Z]+/.exec(unit) ?? [''])[0].toLowerCase();
  return first.length >= 3 || SHORT_UNITS.has(first);
}

function plainUnit(unit: string): string {
  return unit
    .toLowerCase()
    .replace(/[\s{}.-]+/g, '')
    .replace(/s$/, '');
}
