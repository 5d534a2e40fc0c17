// HTML that is escaped by construction: every value in an html`...` template is text unless it is Html itself.

export class Html {
  constructor(readonly text: string) {}
}

export type HtmlValue = Html | string | number | null | undefined | false | readonly HtmlValue[];

/** Interpolated values are escaped, arrays joined, null, undefined and false left out. */
export function html(parts: TemplateStringsArray, ...values: HtmlValue[]): Html {
  return new Html(parts.reduce((text, part, i) => text + htmlText(values[i - 1]) + part));
}

function htmlText(value: HtmlValue): string {
  if (value instanceof Html) return value.text;
  if (typeof value === 'string' || typeof value === 'number') return escapeHtml(String(value));
  if (value === null || value === undefined || value === false) return '';
  return value.map(htmlText).join('');
}

const ESCAPES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

/** For text and for quoted attributes. Control characters, which HTML cannot hold, become their pictures (U+2400...). */
export function escapeHtml(text: string): string {
  return text
    .replace(/[&<>"']/g, (character) => ESCAPES[character] as string)
    .replace(CONTROLS, (character) => String.fromCharCode(0x2400 + character.charCodeAt(0)))
    .replace(/\p{Surrogate}/gu, '\ufffd');
}

// Built from codes: a pattern with control characters in it is unreadable.
const CONTROLS = new RegExp(
  `[${[...Array(32).keys()]
    .filter((code) => code !== 9 && code !== 10)
    .map((code) => `\\u${code.toString(16).padStart(4, '0')}`)
    .join('')}]`,
  'g',
);
