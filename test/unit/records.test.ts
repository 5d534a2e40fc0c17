import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readPreferenceTrees } from '../../src/data/preference-records.js';
import { type RecordLimits, readGenerateRecords, readScoreRecords } from '../../src/data/records.js';
import { readSftExamples } from '../../src/data/sft-records.js';
import { loadCodec } from '../../src/data/tokenizer.js';
import { writeByteTokenizer } from '../helpers/tokenizer-folder.js';

const root = mkdtempSync(join(tmpdir(), 'stepward-records-'));
afterAll(() => rmSync(root, { recursive: true }));

const TEMPLATE =
  "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
const byte = (text: string): number[] => [...text].map((character) => 3 + character.charCodeAt(0));
let limits: RecordLimits;
let bare: RecordLimits;

beforeAll(async () => {
  writeByteTokenizer(root, { chat_template: TEMPLATE });
  limits = { directory: root, codec: await loadCodec(root), vocabSize: 263, maxPositions: 40 };
  bare = { ...limits, codec: undefined };
});

type Reader<T> = (path: string, limits: RecordLimits) => Promise<T[]>;

function read<T>(reader: Reader<T>, records: unknown[], within = limits): Promise<T[]> {
  const path = join(root, 'in.jsonl');
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return reader(path, within);
}

describe('score and generate', () => {
  it('encodes prompts as the tokenizer does by default, steps as continuations, and takes ids as they are', async () => {
    const records = [
      { id: 'x', prompt: 'a', steps: ['b', ''], candidates: ['c'] },
      { prompt_ids: [7], candidates_ids: [[8], [9]] },
    ];
    expect(await read(readScoreRecords, records)).toEqual([
      { id: 'x', promptIds: [0, ...byte('a')], steps: [byte('b'), []], candidates: [byte('c')] },
      { id: 2, promptIds: [7], steps: [], candidates: [[8], [9]] },
    ]);
    expect(await read(readGenerateRecords, [{ id: 5, prompt: 'a', other: 1 }])).toEqual([
      { id: 5, promptIds: [0, ...byte('a')] },
    ]);
  });

  it('needs no tokenizer for ids', async () => {
    expect(await read(readGenerateRecords, [{ prompt_ids: [1] }], bare)).toEqual([{ id: 1, promptIds: [1] }]);
  });
});

describe('dpo', () => {
  const pair = { prompt: 'q', chosen: 'b', rejected: 'c' };
  const q = [0, ...byte('q')];

  it('reads pairs, weights and ids; completions get no special tokens and no EOS', async () => {
    const ids = { prompt_ids: [4], chosen_ids: [5], rejected_ids: [6], weight: 0.25 };
    expect(await read(readPreferenceTrees, [{ id: 3, ...pair }, ids, { ...pair, ...ids }])).toEqual([
      { id: '3', promptIds: q, steps: [{ chosenIds: byte('b'), rejected: [{ ids: byte('c') }] }] },
      { promptIds: [4], steps: [{ chosenIds: [5], rejected: [{ ids: [6], weight: 0.25 }] }] },
      // Ids win where a record has both.
      { promptIds: [4], steps: [{ chosenIds: [5], rejected: [{ ids: [6], weight: 0.25 }] }] },
    ]);
  });

  it('reads mixes of pairs and of trees', async () => {
    const steps = [
      {
        chosen_ids: [5],
        rejected: [
          { ids: [6], mix: 0 },
          { ids: [7], weight: 2, mix: 1 },
        ],
      },
    ];
    expect(
      await read(readPreferenceTrees, [
        { ...pair, mix: 0.75 },
        { prompt_ids: [4], steps },
      ]),
    ).toEqual([
      { promptIds: q, steps: [{ chosenIds: byte('b'), rejected: [{ ids: byte('c'), mix: 0.75 }] }] },
      {
        promptIds: [4],
        steps: [
          {
            chosenIds: [5],
            rejected: [
              { ids: [6], mix: 0 },
              { ids: [7], weight: 2, mix: 1 },
            ],
          },
        ],
      },
    ]);
  });

  it("puts Step-DPO's first steps after the prompt", async () => {
    expect(await read(readPreferenceTrees, [{ ...pair, initial_reason_steps: 'xy', dataset: 'other' }])).toEqual([
      { promptIds: [...q, ...byte('xy')], steps: [{ chosenIds: byte('b'), rejected: [{ ids: byte('c') }] }] },
    ]);
  });

  it('reads trees of ids and of text', async () => {
    const ids = {
      prompt_ids: [4],
      steps: [{ chosen_ids: [5], rejected: [{ ids: [6], weight: 2 }, { ids: [7, 8] }] }, { chosen_ids: [9] }],
    };
    const text = { prompt: 'q', steps: [{ chosen: 'b', rejected: [{ text: 'c' }] }] };
    expect(await read(readPreferenceTrees, [ids, text])).toEqual([
      {
        promptIds: [4],
        steps: [
          { chosenIds: [5], rejected: [{ ids: [6], weight: 2 }, { ids: [7, 8] }] },
          { chosenIds: [9], rejected: [] },
        ],
      },
      { promptIds: q, steps: [{ chosenIds: byte('b'), rejected: [{ ids: byte('c') }] }] },
    ]);
  });

  const tree = (step: object) => ({ prompt_ids: [4], steps: [{ chosen_ids: [5], rejected: [{ ids: [6] }] }, step] });
  it.each([
    [
      'an empty chosen',
      { ...pair, chosen: '' },
      'INVALID_DATA',
      'in.jsonl:2: chosen: expected at least one token, got none',
    ],
    [
      'an empty rejected',
      { ...pair, rejected_ids: [] },
      'INVALID_DATA',
      'rejected_ids: expected at least one token, got none',
    ],
    [
      'no chosen',
      { prompt: 'q', rejected: 'c' },
      'INVALID_DATA',
      'chosen: expected text, or ids as chosen_ids, which is missing',
    ],
    [
      'equal sides',
      { ...pair, chosen: 'c' },
      'INVALID_DATA',
      'in.jsonl:2: rejected: expected other tokens than chosen, got the same 1',
    ],
    ['a negative weight', { ...pair, weight: -1 }, 'INVALID_DATA', 'in.jsonl:2: weight: expected at least 0, got -1'],
    ['a mix above 1', { ...pair, mix: 1.25 }, 'INVALID_DATA', 'in.jsonl:2: mix: expected at most 1, got 1.25'],
    ['a negative mix', { ...pair, mix: -0.5 }, 'INVALID_DATA', 'in.jsonl:2: mix: expected at least 0, got -0.5'],
    ['a weight in words', { ...pair, weight: 'one' }, 'INVALID_DATA', 'weight: expected a number, got "one"'],
    [
      'an id too large',
      { ...pair, chosen_ids: [1, 263] },
      'TOKEN_OUT_OF_RANGE',
      'in.jsonl:2: chosen_ids[1]: expected a token id from 0 to 262, got 263',
    ],
    [
      'a negative id',
      { ...pair, prompt_ids: [-1] },
      'TOKEN_OUT_OF_RANGE',
      'prompt_ids[0]: expected a token id from 0 to 262, got -1',
    ],
    ['a broken id', { ...pair, prompt_ids: [1.5] }, 'INVALID_DATA', 'prompt_ids[0]: expected a whole number, got 1.5'],
    [
      'a context too long',
      { ...pair, prompt_ids: Array(39).fill(4), chosen: 'bbb' },
      'CONTEXT_TOO_LONG',
      "in.jsonl:2: record: expected at most 40 tokens, the model's positions, got 42 (prompt 39 + longer completion 3)",
    ],
    [
      'no steps',
      { prompt_ids: [4], steps: [] },
      'INVALID_DATA',
      'steps: expected a list of a length at least 1, got []',
    ],
    [
      'no rejected step at all',
      { prompt_ids: [4], steps: [{ chosen_ids: [5] }] },
      'INVALID_DATA',
      'steps: expected at least one rejected step',
    ],
    [
      'an empty chosen step',
      tree({ chosen_ids: [] }),
      'INVALID_DATA',
      'steps[1].chosen_ids: expected at least one token, got none',
    ],
    [
      'an equal step',
      tree({ chosen_ids: [7], rejected: [{ ids: [7] }] }),
      'INVALID_DATA',
      'steps[1].rejected[0]: expected other tokens than chosen',
    ],
    [
      'a candidate of neither form',
      tree({ chosen_ids: [7], rejected: [{}] }),
      'INVALID_DATA',
      'steps[1].rejected[0]: expected the key ids or text',
    ],
    [
      'a negative weight in a tree',
      tree({ chosen_ids: [7], rejected: [{ ids: [8], weight: -2 }] }),
      'INVALID_DATA',
      'steps[1].rejected[0].weight: expected at least 0, got -2',
    ],
    [
      'an id out of range in a tree',
      tree({ chosen_ids: [7], rejected: [{ ids: [999] }] }),
      'TOKEN_OUT_OF_RANGE',
      'steps[1].rejected[0].ids[0]: expected a token id from 0 to 262, got 999',
    ],
    [
      'a trunk too long',
      tree({ chosen_ids: Array(39).fill(7), rejected: [{ ids: [8] }] }),
      'CONTEXT_TOO_LONG',
      'in.jsonl:2: steps[1]: expected at most 40 tokens',
    ],
    ['a list', [1, 2], 'INVALID_DATA', 'in.jsonl:2: expected a JSON object, got "[1,2]"'],
  ])('refuses %s', async (_name, record, code, message) => {
    await expect(read(readPreferenceTrees, [pair, record])).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
  });

  it('refuses text without a tokenizer, and an empty file', async () => {
    await expect(read(readPreferenceTrees, [pair], bare)).rejects.toThrow(
      /in\.jsonl:1: prompt: expected token ids \(prompt_ids\), got text/,
    );
    await expect(read(readPreferenceTrees, [])).rejects.toThrow('in.jsonl: expected at least one record, got none');
  });
});

describe('sft', () => {
  it('appends EOS to text that does not end with it, never to ids', async () => {
    const records = [
      { prompt: 'q', completion: 'b' },
      { prompt: 'q', completion: 'b</s>' },
      { prompt_ids: [4], completion_ids: [5] },
    ];
    const completions = async (options = {}) =>
      (await read((path, within) => readSftExamples(path, within, options), records)).map(
        ({ segments }) => segments[1]?.ids,
      );
    expect(await completions()).toEqual([[...byte('b'), 1], [...byte('b'), 1], [5]]);
    expect(await completions({ appendEos: false })).toEqual([byte('b'), [...byte('b'), 1], [5]]);
    const [first] = await read(readSftExamples, records);
    expect(first?.segments[0]).toEqual({ ids: [0, ...byte('q')], weight: 0 });
  });

  it('trains on what the assistant says, EOS included, wherever its words also stand', async () => {
    const messages = [
      { role: 'user', content: 'u' },
      { role: 'assistant', content: 'a' },
      { role: 'user', content: 'v' },
      { role: 'assistant', content: 's' },
    ];
    const [example] = await read(readSftExamples, [{ messages }], { ...limits, maxPositions: 100 });
    expect(example?.segments).toEqual([
      { ids: [...byte('[user]u'), 1, ...byte('[assistant]')], weight: 0 },
      { ids: [...byte('a'), 1], weight: 1 },
      { ids: [...byte('[user]v'), 1, ...byte('[assistant]')], weight: 0 },
      { ids: [...byte('s'), 1], weight: 1 },
    ]);
  });

  it.each([
    [{ prompt: 'q' }, 'completion: expected text, or ids as completion_ids'],
    [{ prompt: 'q', completion: '' }, 'completion: expected at least one token'],
    [
      { messages: [{ role: 'robot', content: '' }] },
      'messages[0].role: expected "system" or "user" or "assistant" or "tool", got "robot"',
    ],
    [{ messages: [{ role: 'user', content: 'x' }] }, 'expected at least one message of the assistant'],
    [{ messages: [{ role: 'assistant', content: 'x' }] }, 'expected a message before the first of the assistant'],
    [{ prompt: 'q'.repeat(40), completion: 'x' }, 'got 43 (prompt 41 + completion 2)'],
  ])('refuses %j', async (record, message) => {
    await expect(read(readSftExamples, [record])).rejects.toThrow(message);
  });
});
