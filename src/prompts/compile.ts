// PromptFormat to token ids, once per model. Text around the slots is rendered once (through the chat template where
// there is one) and cut at the slots; steps and candidates enter as the ids they were sampled as, never as text again.

import type { TextCodec } from '../data/codec.js';
import { StepwardError } from '../errors.js';
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
  steps: ArrayLike<number>;
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
  readonly #needsAnchor: boolean;
  readonly #pieces = new Map<string, number[]>();
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
    this.#needsAnchor = codec.encode('\na').join() !== [...codec.encode('\n'), ...codec.encode('a')].join();
    this.#solve = this.#cut(format.solve, SOLVE_SLOTS);
    this.#judge = this.#cut(format.judge, JUDGE_SLOTS);
  }

  /** The prompt a solution continues. */
  solve(problem: string): number[] {
    const text = this.#solve.texts.join(problem.trim());
    return [...this.#bos, ...this.#codec.encode(text)];
  }

  /** The prompt a critique continues. `readout`: with the readout suffix, so that the next token is a label. */
  judge(view: JudgeView, readout = false): number[] {
    const { texts, slots } = this.#judge;
    const ids = [...this.#bos];
    let text = texts[0] as string;
    for (const [i, slot] of slots.entries()) {
      const after = texts[i + 1] as string;
      if (slot === 'problem') {
        text += view.problem.trim() + after;
      } else {
        append(ids, this.#piece(text));
        append(ids, view[slot]);
        text = after;
      }
    }
    append(ids, this.#piece(text));
    if (readout) append(ids, this.#piece(this.format.readout.suffix));
    return ids;
  }

  /** Ids of one written step: with its delimiter, or with EOS where it ends the solution. */
  step(text: string, last: boolean): number[] {
    const body = text.trim();
    return last
      ? [...this.#continuation(body), this.eosIds[0] as number]
      : this.#continuation(body + this.format.step_delimiter);
  }

  /** A step as the judge is shown it: without EOS and without tokens at its end that are only blank or delimiter. */
  shown(ids: readonly number[]): number[] {
    let end = ids.length;
    while (end > 0 && this.#isBlank(ids[end - 1] as number)) end--;
    return ids.slice(0, end);
  }

  /** Ids of a written critique with its verdict, EOS at the end. Throws INVALID_DATA where it holds the other verdict. */
  critique(text: string, label: 'a' | 'b'): number[] {
    const { verdicts } = this.format;
    const verdict = verdicts[label];
    const other = verdicts[label === 'a' ? 'b' : 'a'];
    if (text.includes(other)) {
      throw new StepwardError('INVALID_DATA', `critique: expected no ${other} where the label is ${label}, found one`);
    }
    const target = text.includes(verdict)
      ? text
      : this.format.critique.replace('{critique}', () => text).replace('{verdict}', () => verdict);
    return [...this.#continuation(target), this.eosIds[0] as number];
  }

  /** Ids of the two verdicts, for finding where the label was decided. */
  verdictIds(): [number[], number[]] {
    return [this.#continuation(this.format.verdicts.a), this.#continuation(this.format.verdicts.b)];
  }

  /** The two readout labels. Throws INVALID_CONFIG where one is not exactly one token, or both are the same. */
  labelIds(): [number, number] {
    const [a, b] = this.format.readout.labels.map((label, i) => {
      const ids = this.#continuation(label);
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

  decode(ids: ArrayLike<number>, keepSpecial = false): string {
    return this.#codec.decode(ids, { keepSpecial });
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

  #piece(text: string): number[] {
    let ids = this.#pieces.get(text);
    if (!ids) {
      if (this.#pieces.size > 4096) this.#pieces.clear();
      ids = text === '' ? [] : this.#continuation(text);
      this.#pieces.set(text, ids);
    }
    return ids;
  }

  // A tokenizer that marks the start of every text (Llama 2's leading space) would put that mark into the middle of a
  // prompt: encode after a newline and take the newline's ids off again.
  #continuation(text: string): number[] {
    if (!this.#needsAnchor) return this.#codec.encode(text);
    const anchor = this.#codec.encode('\n');
    const ids = this.#codec.encode(`\n${text}`);
    return anchor.every((id, i) => ids[i] === id) ? ids.slice(anchor.length) : this.#codec.encode(text);
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

function append(ids: number[], more: ArrayLike<number>): void {
  for (let i = 0; i < more.length; i++) ids.push(more[i] as number);
}
