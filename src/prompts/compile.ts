// PromptFormat to token ids, once per model. Text around the slots is rendered once (through the chat template where
// there is one) and cut at the slots; steps and candidates enter as the ids they were sampled as, never as text again.

import type { TextCodec } from '../data/codec.js';
import { StepwardError } from '../errors.js';
import { PieceEncoder } from './encoder.js';
import { JUDGE_SLOTS, type PromptFormat, SOLVE_SLOTS } from './format.js';

type JudgeSlot = (typeof JUDGE_SLOTS)[number];

/** A template cut at its slots: literal text between, `texts.length === slots.length + 1`. */
interface CutTemplate<Slot extends string> {
  texts: string[];
  slots: Slot[];
}

/** What the judge is shown. All but the problem are token ids. */
export interface JudgeView {
  problem: string;
  /** The accepted steps, end to end or one by one: where they are cut does not change the prompt's ids. */
  steps: ArrayLike<number> | readonly ArrayLike<number>[];
  a: ArrayLike<number>;
  b: ArrayLike<number>;
}

export class CompiledPrompts {
  readonly format: PromptFormat;
  /** Ids that end a solution or a critique. Never empty. */
  readonly eosIds: number[];
  readonly #codec: TextCodec;
  readonly #chat: boolean;
  readonly #solve: CutTemplate<'problem'>;
  readonly #judge: CutTemplate<JudgeSlot>;
  readonly #bos: number[];
  /** BOS and the text before a template's first slot, on their own. */
  readonly #solveHeader: number[];
  readonly #judgeHeader: number[];
  readonly #encoder: PieceEncoder;
  readonly #blank = new Map<number, boolean>();

  constructor(codec: TextCodec, format: PromptFormat) {
    this.format = format;
    this.#codec = codec;
    this.eosIds = codec.eosIds;
    if (this.eosIds.length === 0) {
      throw new StepwardError(
        'CHECKPOINT_INVALID',
        'expected an end-of-sequence token in generation_config.json, config.json or the tokenizer, found none',
      );
    }
    this.#chat = format.chat === 'auto' ? codec.hasChatTemplate : format.chat;
    if (this.#chat && !codec.hasChatTemplate) {
      throw new StepwardError(
        'INVALID_CONFIG',
        "format.chat: expected a chat template in the model's folder, found none",
      );
    }
    this.#bos = this.#chat ? [] : leadingSpecials(codec);
    this.#encoder = new PieceEncoder(codec);
    this.#solve = this.#cut(format.solve, SOLVE_SLOTS);
    this.#judge = this.#cut(format.judge, JUDGE_SLOTS);
    const header = (text = '') => [...this.#bos, ...this.#encoder.encode(text, { start: true })];
    this.#solveHeader = header(this.#solve.texts[0]);
    this.#judgeHeader = header(this.#judge.texts[0]);
  }

  /** What `make` gives, with the texts it needs encoded together: quick for many prompts. It must do nothing else. */
  batch<T>(make: () => T): T {
    return this.#encoder.batch(make);
  }

  /** The prompt a solution continues. */
  solve(problem: string): number[] {
    const text = this.#solve.texts.join(problem.trim());
    return [...this.#bos, ...this.#encoder.encode(text, { start: true })];
  }

  /** What solve() gives, in the parts that prompts share: what stands before any problem, and the problem. */
  solveParts(ids: number[]): number[][] {
    return cutHeader(ids, this.#solveHeader);
  }

  /** The prompt a critique continues. `readout`: with the readout suffix, so that the next token is a label. */
  judge(view: JudgeView, readout = false): number[] {
    return this.judgeParts(view, readout).flat();
  }

  /**
   * The same prompt in the parts that prompts share: what stands before any problem, the problem, each accepted step,
   * up to the end of the candidate shown first, and the rest. The cuts depend on the prompt alone.
   */
  judgeParts(view: JudgeView, readout = false): number[][] {
    const { texts, slots } = this.#judge;
    const parts: number[][] = [];
    let part = [...this.#bos];
    let text = texts[0] as string;
    let start = true;
    const flush = (): void => {
      append(part, this.#encoder.encode(text, { start }));
      start = false;
    };
    const cut = (): void => {
      if (part.length > 0) parts.push(part);
      part = [];
    };
    let candidates = 0;
    for (const [i, slot] of slots.entries()) {
      const after = texts[i + 1] as string;
      if (slot === 'problem') {
        text += view.problem.trim() + after;
        continue;
      }
      flush();
      text = after;
      if (slot === 'steps') {
        cut();
        for (const step of stepsOf(view.steps)) {
          append(part, step);
          cut();
        }
      } else {
        append(part, view[slot]);
        if (++candidates === 1) cut();
      }
    }
    flush();
    if (readout) append(part, this.#encoder.encode(this.format.readout.suffix));
    cut();
    const [first, ...rest] = parts;
    if (!first || this.#judge.slots[0] !== 'problem') return parts;
    return [...cutHeader(first, this.#judgeHeader), ...rest];
  }

  /** Ids of one written step: with its delimiter, or with EOS where it ends the solution. */
  step(text: string, last: boolean): number[] {
    const body = text.trim();
    return last
      ? [...this.#encoder.encode(body), this.eosIds[0] as number]
      : this.#encoder.encode(body + this.format.step_delimiter);
  }

  /** A step as the judge is shown it: without EOS and without tokens at its end that are only blank or delimiter. */
  shown(ids: readonly number[]): number[] {
    let end = ids.length;
    while (end > 0 && this.#isBlank(ids[end - 1] as number)) end--;
    return ids.slice(0, end);
  }

  /** Ids of a written critique with its verdict, EOS at the end. */
  critique(text: string, label: 'a' | 'b'): number[] {
    const verdict = this.format.verdicts[label];
    const target = text.includes(verdict)
      ? text
      : this.format.critique.replace('{critique}', () => text).replace('{verdict}', () => verdict);
    return [...this.#encoder.encode(target), this.eosIds[0] as number];
  }

  /** The two readout labels. Throws INVALID_CONFIG where one is not exactly one token, or both are the same. */
  labelIds(): [number, number] {
    const [a, b] = this.format.readout.labels.map((label, i) => {
      const ids = this.#encoder.encode(label);
      if (ids.length !== 1) {
        throw new StepwardError(
          'INVALID_CONFIG',
          `format.readout.labels[${i}]: expected a text of one token, ${JSON.stringify(label)} has ${ids.length}`,
        );
      }
      return ids[0] as number;
    }) as [number, number];
    if (a === b) throw new StepwardError('INVALID_CONFIG', 'format.readout.labels: expected two different tokens');
    return [a, b];
  }

  /**
   * Throws INVALID_CONFIG where the tokenizer cannot say what a judge of this kind has to say: a verdict that comes back
   * from its ids as another text, or labels that are not one token each.
   */
  checkJudging(mode: 'critique' | 'readout'): void {
    if (mode === 'readout') {
      this.labelIds();
      return;
    }
    for (const [name, verdict] of Object.entries(this.format.verdicts)) {
      const back = this.#codec.decode(this.#encoder.encode(verdict), { keepSpecial: true });
      if (back.includes(verdict.trim())) continue;
      throw new StepwardError(
        'INVALID_CONFIG',
        `format.verdicts.${name}: expected a text that the tokenizer can write, ${JSON.stringify(verdict)} becomes ${JSON.stringify(back)}`,
      );
    }
  }

  #cut<Slot extends string>(template: string, slots: readonly Slot[]): CutTemplate<Slot> {
    // Placeholders that no template trims, escapes or splits.
    const holder = (slot: string) => `<<stepward-slot-${slot}>>`;
    let text = template;
    for (const slot of slots) text = text.replace(`{${slot}}`, holder(slot));
    if (this.#chat) {
      const system = this.format.system === '' ? [] : [{ role: 'system' as const, content: this.format.system }];
      text = this.#codec.renderChat([...system, { role: 'user', content: text }], { addGenerationPrompt: true });
    }
    const order = [...slots].sort((x, y) => text.indexOf(holder(x)) - text.indexOf(holder(y)));
    const texts: string[] = [];
    for (const slot of order) {
      const parts = text.split(holder(slot));
      if (parts.length !== 2) {
        throw new StepwardError(
          'INVALID_CONFIG',
          `the chat template repeats or drops the user message (slot {${slot}})`,
        );
      }
      texts.push(parts[0] as string);
      text = parts[1] as string;
    }
    return { texts: [...texts, text], slots: order };
  }

  #isBlank(id: number): boolean {
    let blank = this.#blank.get(id);
    if (blank === undefined) {
      const text = this.#codec.decode([id]).replaceAll(this.format.step_delimiter, '');
      blank = this.eosIds.includes(id) || text.trim() === '';
      this.#blank.set(id, blank);
    }
    return blank;
  }
}

/** Special ids the tokenizer puts before a text (BOS), without what it puts after one. */
function leadingSpecials(codec: TextCodec): number[] {
  const plain = codec.encode('a');
  const special = codec.encode('a', { special: true });
  for (let start = 0; start + plain.length <= special.length; start++) {
    if (plain.every((id, i) => special[start + i] === id)) return special.slice(0, start);
  }
  return [];
}

/**
 * Cuts the header off the first part of a prompt, as far as the tokenizer keeps it apart from what follows: it may join the
 * header's last tokens with the problem's first. The cut depends on the prompt alone.
 */
function cutHeader(part: number[], header: readonly number[]): number[][] {
  const cut = header.length - 2;
  if (cut < 1 || cut >= part.length || header.slice(0, cut).some((id, i) => id !== part[i])) return [part];
  return [part.slice(0, cut), part.slice(cut)];
}

function stepsOf(steps: JudgeView['steps']): readonly ArrayLike<number>[] {
  if (steps.length === 0) return [];
  return typeof steps[0] === 'number' ? [steps as ArrayLike<number>] : (steps as readonly ArrayLike<number>[]);
}

function append(ids: number[], more: ArrayLike<number>): void {
  for (let i = 0; i < more.length; i++) ids.push(more[i] as number);
}
