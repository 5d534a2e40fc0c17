// The log on stderr: readable lines, or pino's JSON lines with STEPWARD_LOG=json. STEPWARD_LOG_LEVEL sets the level
// (default info).

import pc from 'picocolors';
import pino from 'pino';

export type Log = pino.Logger;

const MARKS: Record<string, string> = {
  warn: pc.yellow('warning: '),
  error: pc.red('error: '),
  fatal: pc.red('error: '),
};

export function createLog(): Log {
  const level = process.env.STEPWARD_LOG_LEVEL ?? 'info';
  if (process.env.STEPWARD_LOG === 'json')
    return pino({ level, base: null }, pino.destination({ dest: 2, sync: true }));
  return pino({ level, base: null, formatters: { level: (name) => ({ level: name }) } }, { write: writeReadable });
}

function writeReadable(line: string): void {
  const { level, msg, time: _, ...fields } = JSON.parse(line) as { level: string; msg?: string; time: number };
  const rest = Object.entries(fields).map(([key, value]) => pc.dim(`${key}=${JSON.stringify(value)}`));
  process.stderr.write(`${[`${MARKS[level] ?? ''}${msg ?? ''}`, ...rest].join(' ')}\n`);
}
