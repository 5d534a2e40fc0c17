// Numbers for people. Where there is no number the text is a dash.

export const NONE = '–';

type Maybe = number | null | undefined;

/** 0.5075 as 50.8%. */
export function percent(share: Maybe, digits = 1): string {
  return isNumber(share) ? `${signed(100 * share, digits)}%` : NONE;
}

/** [0.4587, 0.5562] as 45.9–55.6%. */
export function percentRange(interval: readonly Maybe[] | null | undefined): string {
  const [low, high] = interval ?? [];
  return isNumber(low) && isNumber(high) ? `${(100 * low).toFixed(1)}–${percent(high)}` : NONE;
}

/** A difference of two shares in percentage points, with its sign. */
export function points(difference: Maybe): string {
  if (!isNumber(difference)) return NONE;
  const text = signed(100 * difference, 1);
  return `${difference > 0 && Number(text) !== 0 ? '+' : ''}${text} points`;
}

/** 95196 as 95,196. */
export function count(value: Maybe): string {
  if (!isNumber(value)) return NONE;
  return signed(value, 0).replace(/\B(?=(\d{3})+$)/g, ',');
}

export function decimal(value: Maybe, digits = 2): string {
  return isNumber(value) ? signed(value, digits) : NONE;
}

/** At most two decimals: 1.50 as 1.5, 2.00 as 2. */
export function shortest(value: Maybe): string {
  return isNumber(value) ? signed(value, 2).replace(/\.?0+$/, '') : NONE;
}

/** Three significant digits, whatever the size; 0 for 0. */
export function significant(value: Maybe): string {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replaceAll('-', '−');
  const digits = size === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(size)));
  return signed(value, Math.min(6, digits));
}

/** 7264 s as 2 h 1 min, 114 as 1 min 54 s, 11.4 as 11.4 s. */
export function duration(seconds: Maybe): string {
  if (!isNumber(seconds)) return NONE;
  if (seconds < 59.95) return `${signed(seconds, 1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** 2026-11-23T07:58:01.670Z as 2026-11-23 07:58 UTC. */
export function moment(iso: string | undefined): string {
  const date = new Date(iso ?? Number.NaN);
  return Number.isNaN(date.getTime()) ? NONE : `${date.toISOString().slice(0, 16).replace('T', ' ')} UTC`;
}

/** "1 pair", "2 pairs". */
export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** Text cut to `limit` characters, the cut shown. */
export function cut(text: string, limit: number): string {
  return text.length <= limit
    ? text
    : `${text.slice(0, limit).trimEnd()} … (${count(text.length - limit)} more characters)`;
}

export function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

// A real minus sign, and never "-0".
function signed(value: number, digits: number): string {
  const text = value.toFixed(digits);
  return /^-[0.]*$/.test(text) ? text.slice(1) : text.replace('-', '−');
}
