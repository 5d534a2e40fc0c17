// Numeric values of answers that are expressions: fractions, roots, powers, pi, products, variables. Doubles only, so a
// tower like 9^{9^{9}} costs three multiplications and is infinite; nothing here loops over a value.

type Values = Pick<ReadonlyMap<string, number>, 'get'>;

const LONGEST = 500;
const DEEPEST = 60;
const FUNCTIONS: Record<string, (x: number) => number> = {
  sqrt: Math.sqrt,
  sin: Math.sin,
  cos: Math.cos,
  tan: Math.tan,
  ln: Math.log,
  log: Math.log10,
  exp: Math.exp,
};
const TOKEN = /\s*(\d+\.?\d*|\.\d+|\\[a-zA-Z]+|[a-zA-Z]|[-+*/^(){}[\]|!_])/y;

/** Names of the variables in an expression, or null where it does not parse. */
export function variablesOf(text: string): string[] | null {
  const names = new Set<string>();
  const get = (name: string) => {
    names.add(name);
    return 1;
  };
  const value = evaluate(text, { get });
  return value === null ? null : [...names].sort();
}

/** Value at the given variables; null where the text is not an expression, is longer than 500 characters or too deep. */
export function evaluate(text: string, values: Values): number | null {
  const tokens = tokenize(text);
  if (!tokens || tokens.length === 0) return null;
  const parser = new Parser(tokens, values);
  try {
    return parser.whole();
  } catch (error) {
    if (error instanceof NotAnExpression) return null;
    throw error;
  }
}

function tokenize(text: string): string[] | null {
  if (text.length > LONGEST) return null;
  const tokens: string[] = [];
  TOKEN.lastIndex = 0;
  const end = text.trimEnd().length;
  while (TOKEN.lastIndex < end) {
    const found = TOKEN.exec(text);
    if (!found) return null;
    tokens.push(found[1] as string);
  }
  return tokens;
}

class NotAnExpression extends Error {}

class Parser {
  #at = 0;
  #depth = 0;

  constructor(
    readonly tokens: readonly string[],
    readonly values: Values,
  ) {}

  whole(): number {
    const value = this.#sum();
    if (this.#at < this.tokens.length) throw new NotAnExpression();
    return value;
  }

  #peek(): string | undefined {
    return this.tokens[this.#at];
  }

  #take(token: string): boolean {
    if (this.#peek() !== token) return false;
    this.#at++;
    return true;
  }

  #expect(token: string): void {
    if (!this.#take(token)) throw new NotAnExpression();
  }

  #sum(): number {
    if (++this.#depth > DEEPEST) throw new NotAnExpression();
    let value = this.#product();
    for (;;) {
      if (this.#take('+')) value += this.#product();
      else if (this.#take('-')) value -= this.#product();
      else break;
    }
    this.#depth--;
    return value;
  }

  #product(): number {
    let value = this.#signed();
    for (;;) {
      if (this.#take('*')) value *= this.#signed();
      else if (this.#take('/')) value /= this.#signed();
      else if (this.#startsFactor()) value *= this.#power();
      else return value;
    }
  }

  #startsFactor(): boolean {
    const token = this.#peek();
    return token !== undefined && (/^[\d.a-zA-Z\\]/.test(token) || token === '(' || token === '{');
  }

  #signed(): number {
    let sign = 1;
    for (;;) {
      if (this.#take('-')) sign = -sign;
      else if (!this.#take('+')) return sign * this.#power();
    }
  }

  #power(): number {
    if (++this.#depth > DEEPEST) throw new NotAnExpression();
    const base = this.#atom();
    const value = this.#take('^') ? base ** this.#exponent() : base;
    this.#depth--;
    return value;
  }

  #exponent(): number {
    if (this.#take('-')) return -this.#power();
    return this.#power();
  }

  #atom(): number {
    const token = this.#peek();
    if (token === undefined) throw new NotAnExpression();
    this.#at++;
    if (/^[\d.]/.test(token)) return Number(token);
    if (token === '(') return this.#closed(')');
    if (token === '{') return this.#closed('}');
    if (token === '|') {
      const value = this.#sum();
      this.#expect('|');
      return Math.abs(value);
    }
    if (token.startsWith('\\')) return this.#command(token.slice(1));
    if (/^[a-zA-Z]$/.test(token)) return this.#word(token);
    throw new NotAnExpression();
  }

  #closed(end: string): number {
    const value = this.#sum();
    this.#expect(end);
    return value;
  }

  #group(): number {
    this.#expect('{');
    return this.#closed('}');
  }

  #command(name: string): number {
    if (name === 'pi') return Math.PI;
    if (name === 'frac') return this.#group() / this.#group();
    if (name === 'sqrt' && this.#take('[')) {
      const degree = this.#closed(']');
      return this.#group() ** (1 / degree);
    }
    const apply = FUNCTIONS[name];
    if (apply) return apply(this.#power());
    throw new NotAnExpression();
  }

  // Letters spell a function or pi where they can ("sqrt(2)", "2pi"), else each is a variable.
  #word(first: string): number {
    for (const name of [...Object.keys(FUNCTIONS), 'pi']) {
      const letters = this.tokens.slice(this.#at - 1, this.#at - 1 + name.length).join('');
      if (letters !== name) continue;
      this.#at += name.length - 1;
      return name === 'pi' ? Math.PI : (FUNCTIONS[name] as (x: number) => number)(this.#power());
    }
    const value = this.values.get(first);
    if (value === undefined) throw new NotAnExpression();
    return value;
  }
}
