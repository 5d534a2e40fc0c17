// Just enough Markdown to hold the documentation against the code: pages, sections, table rows and code blocks.

import { readFileSync } from 'node:fs';
import { expect } from 'vitest';

export const repository = new URL('../../', import.meta.url);

/** A page of the repository. */
export const readPage = (path: string) => readFileSync(new URL(path, repository), 'utf8');

/** Cells of every table row of a page. */
export function rows(page: string): string[][] {
  return page
    .split('\n')
    .filter((line) => line.startsWith('| ') && !line.startsWith('| ---'))
    .map((line) => line.slice(1, -1).split(/(?<!\\)\|/))
    .map((cells) => cells.map((cell) => cell.trim().replaceAll('\\|', '|')));
}

/** Texts in backticks. */
export const codes = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map((match) => match[1] as string);

/** What stands under a heading, up to the next one; capitals do not matter. */
export function section(page: string, heading: string): string {
  const start = page.search(new RegExp(`^#+ ${heading}$`, 'im'));
  expect(start, `heading ${heading}`).toBeGreaterThanOrEqual(0);
  const body = page.slice(page.indexOf('\n', start) + 1);
  const end = body.search(/^#+ /m);
  return end < 0 ? body : body.slice(0, end);
}

/** The first code block under a heading, its last line end included. */
export function block(page: string, heading: string): string {
  const found = /```\w+\n([\s\S]*?)^```$/m.exec(section(page, heading));
  expect(found, `code block under ${heading}`).not.toBeNull();
  return found?.[1] as string;
}
