// The records of `sft`: a prompt with a completion, as text or ids, chat messages, or segments of ids with weights. Loss is on
// the completion, and on what the assistant says; everything else is context.

import { z } from 'zod';
import { StepwardError } from '../errors.js';
import type { SftExample } from '../training/types.js';
import type { ChatMessage, TextCodec } from './codec.js';
import { exampleLength, LengthLimit } from './length.js';
import { idField, idsField, promptOf, type RecordLimits, type RecordReader, readRecords } from './records.js';

const completionSchema = z.looseObject({
  id: idField,
  prompt: z.string().optional(),
  prompt_ids: idsField.optional(),
  completion: z.string().optional(),
  completion_ids: idsField.optional(),
});

const chatSchema = z.looseObject({
  id: idField,
  messages: z
    .array(z.looseObject({ role: z.enum(['system', 'user', 'assistant', 'tool']), content: z.string() }))
    .min(1),
});

const segmentsSchema = z.looseObject({
  id: idField,
  segments: z.array(z.looseObject({ ids: idsField, weight: z.number().min(0) })).min(1),
});

type SegmentsRecord = z.infer<typeof segmentsSchema>;
type CompletionRecord = z.infer<typeof completionSchema>;
type ChatRecord = z.infer<typeof chatSchema>;

export interface SftRecordOptions {
  /** Append EOS to text completions that do not end with it. Default true. */
  appendEos?: boolean;
  /** Default: what is longer than the model's positions is refused. */
  length?: LengthLimit;
}

/** Examples in file order. Throws INVALID_DATA, TOKEN_OUT_OF_RANGE and CONTEXT_TOO_LONG naming file, line and field. */
export async function readSftExamples(
  path: string,
  limits: RecordLimits,
  options: SftRecordOptions = {},
): Promise<SftExample[]> {
  const length = options.length ?? LengthLimit.of(limits.maxPositions);
  const examples: SftExample[] = [];
  const schemaOf = (value: Record<string, unknown>): z.ZodType<CompletionRecord | ChatRecord | SegmentsRecord> => {
    if ('messages' in value) return chatSchema;
    return 'segments' in value ? segmentsSchema : completionSchema;
  };
  for await (const reader of readRecords(path, limits, schemaOf)) {
    const { example, field, parts } = readExample(reader, options.appendEos ?? true);
    const kept = reader.fits(field, parts, length) ? example : length.cutExample(example);
    if (kept) examples.push(kept);
  }
  if (examples.length === 0) {
    throw new StepwardError('INVALID_DATA', `${path}: expected an example that fits, ${length.remark() ?? 'got none'}`);
  }
  return examples;
}

interface ReadExample {
  example: SftExample;
  /** For the message where the example is too long. */
  field: string;
  parts: Record<string, number>;
}

function readExample(
  reader: RecordReader<CompletionRecord | ChatRecord | SegmentsRecord>,
  appendEos: boolean,
): ReadExample {
  if ('messages' in reader.record) return readChat(reader as RecordReader<ChatRecord>);
  if ('segments' in reader.record) return readSegments(reader as RecordReader<SegmentsRecord>);
  return readCompletion(reader as RecordReader<CompletionRecord>, appendEos);
}

function readSegments(reader: RecordReader<SegmentsRecord>): ReadExample {
  const segments = reader.record.segments.map(({ ids, weight }, i) => ({
    ids: reader.checkIds(`segments[${i}].ids`, ids),
    weight,
  }));
  if (!segments.some(({ weight }) => weight > 0)) {
    throw reader.error('segments', 'expected at least one with a weight above 0, got none');
  }
  return { example: { segments }, field: 'segments', parts: { segments: exampleLength({ segments }) } };
}

function readCompletion(reader: RecordReader<CompletionRecord>, appendEos: boolean): ReadExample {
  const { record } = reader;
  const promptIds = promptOf(reader);
  const given = reader.required('completion', record.completion, record.completion_ids);
  const completion = record.completion_ids || !appendEos ? given : withEos(reader, given);
  const segments = [
    { ids: promptIds, weight: 0 },
    { ids: completion, weight: 1 },
  ];
  return {
    example: { segments },
    field: 'record',
    parts: { prompt: promptIds.length, completion: completion.length },
  };
}

function withEos(reader: RecordReader<CompletionRecord>, ids: number[]): number[] {
  const eosIds = reader.codec('completion').eosIds;
  const eos = eosIds[0];
  if (eos === undefined)
    throw reader.error('completion', 'expected a tokenizer with an EOS token to append; use --no-append-eos');
  return eosIds.includes(ids.at(-1) as number) ? ids : [...ids, eos];
}

/** The template renders the whole chat once; the text is then cut where the assistant speaks. */
function readChat(reader: RecordReader<ChatRecord>): ReadExample {
  const { messages } = reader.record;
  const codec = reader.codec('messages');
  if (!codec.hasChatTemplate) {
    throw reader.error('messages', `expected a model with a chat template, and ${reader.limits.directory} has none`);
  }
  const text = render(reader, codec, messages);
  const segments: SftExample['segments'] = [];
  let done = 0;
  const push = (end: number, weight: number): void => {
    const ids = codec.encode(text.slice(done, end), done === 0 ? {} : { continuation: true });
    if (ids.length > 0) segments.push({ ids, weight });
    done = end;
  };
  for (const [i, message] of messages.entries()) {
    if (message.role !== 'assistant') continue;
    const turn = assistantTurn(reader, codec, messages, i, text);
    push(turn.start, 0);
    push(turn.end, 1);
  }
  push(text.length, 0);
  if (!segments.some(({ weight }) => weight > 0)) {
    throw reader.error('messages', 'expected at least one message of the assistant, got none');
  }
  return { example: { segments }, field: 'messages', parts: { chat: exampleLength({ segments }) } };
}

/**
 * Where turn `i` stands in the rendered text: from the end of its generation prompt, so that what is trained on is what
 * is generated later, to its EOS.
 */
function assistantTurn(
  reader: RecordReader<ChatRecord>,
  codec: TextCodec,
  messages: ChatMessage[],
  i: number,
  text: string,
): { start: number; end: number } {
  if (i === 0) throw reader.error('messages[0].role', 'expected a message before the first of the assistant, got none');
  const start = sharedLength(text, render(reader, codec, messages.slice(0, i), true));
  const eosEnds = codec.eosIds
    .map((id) => codec.decode([id], { keepSpecial: true }))
    .filter((eos) => eos !== '' && text.includes(eos, start))
    .map((eos) => text.indexOf(eos, start) + eos.length);
  const end =
    eosEnds.length > 0 ? Math.min(...eosEnds) : sharedLength(text, render(reader, codec, messages.slice(0, i + 1)));
  if (end <= start) {
    throw reader.error(
      `messages[${i}]`,
      'expected the chat template to keep this message where it stands, which it does not',
    );
  }
  return { start, end };
}

function render(
  reader: RecordReader<ChatRecord>,
  codec: TextCodec,
  messages: ChatMessage[],
  addGenerationPrompt = false,
): string {
  try {
    return codec.renderChat(messages, { addGenerationPrompt });
  } catch (error) {
    throw reader.error('messages', (error as Error).message);
  }
}

function sharedLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
