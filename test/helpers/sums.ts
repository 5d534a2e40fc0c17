// A fake model for sums like "3+4+5", in the built-in prompt format: it writes "Step n: a+b=c" lines and a boxed answer,
// slips now and then, and judges by computing, right unless told otherwise.

import type { Policy } from '../../src/loop/policy.js';
import { policyOf } from '../../src/loop/policy.js';
import { DEFAULT_FORMAT, type PromptFormat } from '../../src/prompts/format.js';
import { type Draw, EOS_MARK, FakeEngine, type FakeOptions } from './fake-engine.js';

export interface SumsOptions {
  /** Probability that a sampled step slips, at skill 0; each point of skill takes a tenth off. Greedy never draws: it slips above a half. */
  slip?: number;
  judge?: (steps: { a: string; b: string }, draw: Draw) => string;
}

export function respondToSums(options: SumsOptions = {}) {
  return (prompt: string, draw: Draw): string =>
    prompt.startsWith('You are a fair judge') ? judge(prompt, draw, options) : solve(prompt, draw, options);
}

function solve(prompt: string, draw: Draw, { slip = 0.4 }: SumsOptions): string {
  const [, problem = '', written = ''] = /Problem: (\S+)\n\n([\s\S]*)$/.exec(prompt) ?? [];
  const terms = problem.split('+').map(Number);
  const lines = written.split('\n').filter(Boolean);
  let value = lines.length === 0 ? (terms[0] as number) : Number(/=(-?\d+)$/.exec(lines.at(-1) as string)?.[1]);
  let text = '';
  for (let n = lines.length; n < terms.length - 1; n++) {
    const chance = Math.max(0, slip - 0.1 * draw.skill);
    const slips = draw.temperature === 0 ? chance > 0.5 : draw.random() < chance;
    const next = value + (terms[n + 1] as number) + (slips ? 1 + Math.floor(2 * draw.random()) : 0);
    text += `Step ${n + 1}: ${value}+${terms[n + 1]}=${next}\n`;
    value = next;
  }
  return `${text}The answer is \\boxed{${value}}${EOS_MARK}`;
}

function judge(prompt: string, draw: Draw, options: SumsOptions): string {
  const shown = (name: string) =>
    new RegExp(`Assistant ${name}'s Next Step\\]\\n([\\s\\S]*?)\\n\\[The End`).exec(prompt)?.[1] ?? '';
  const [a, b] = [shown('A'), shown('B')];
  if (options.judge) return options.judge({ a, b }, draw);
  return right(a) >= right(b) ? `A is as good or better. [[A]]` : `B is better. [[B]]`;
}

/** 1 for a step whose sum is right. */
export function right(step: string): number {
  const [, x, y, z] = /(\d+)\+(\d+)=(\d+)/.exec(step) ?? [];
  return Number(x === undefined || Number(x) + Number(y) === Number(z));
}

export async function sumsPolicy(
  options: SumsOptions & Partial<FakeOptions> = {},
  format: PromptFormat = DEFAULT_FORMAT,
): Promise<{ policy: Policy; engine: FakeEngine }> {
  const engine = new FakeEngine({ respond: respondToSums(options), ...options });
  return { policy: await policyOf(engine, engine.codec, format), engine };
}
