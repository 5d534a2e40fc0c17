// report.html of a run folder: what metrics.jsonl says, as a page that needs nothing else.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';

/** Writes DIR/report.html from DIR/metrics.jsonl; its path. */
export async function writeReport(directory: string): Promise<string> {
  const metrics = join(directory, 'metrics.jsonl');
  const lines = existsSync(metrics) ? readFileSync(metrics, 'utf8').trim().split('\n').filter(Boolean) : [];
  const rows = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  const keys = Object.keys(rows[0] ?? {});
  const cells = (tag: string, values: unknown[]) =>
    `<tr>${values.map((value) => `<${tag}>${escapeHtml(value)}</${tag}>`).join('')}</tr>`;
  const title = escapeHtml(`Stepward run ${basename(directory)}`);
  const table = [
    cells('th', keys),
    ...rows.map((row) =>
      cells(
        'td',
        keys.map((key) => row[key]),
      ),
    ),
  ].join('\n');
  const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; } td, th { padding: 0.2rem 0.8rem; text-align: right; }</style>
<h1>${title}</h1>
<table>
${table}
</table>
</html>
`;
  const path = join(directory, 'report.html');
  writeFileSync(path, page);
  return path;
}

function escapeHtml(value: unknown): string {
  const text = typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(4) : String(value ?? '');
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
