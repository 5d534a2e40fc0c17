import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LengthLimit } from '../../src/data/length.js';
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

  it('holds the ids of steps and candidates against their texts', async () => {
    const record = { prompt: 'a', steps: ['b', 'cd'], steps_ids: [byte('b'), byte('cd')] };
    expect(await read(readScoreRecords, [record])).toMatchObject([{ steps: record.steps_ids }]);
    await expect(read(readScoreRecords, [{ ...record, steps_ids: [byte('b'), byte('x')] }])).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(/:1: steps_ids\[1\]: expected the ids of steps\[1\] .*"cd"; they read "x"$/),
    });
    await expect(read(readScoreRecords, [{ ...record, candidates: ['c'], candidates_ids: [] }])).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(/:1: candidates_ids: expected the ids of the 1 candidates .* as text, got 0$/),
    });
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
    expect(await read(readPreferenceTrees, [{ id: 3, ...pair }, ids])).toEqual([
      { id: '3', firstStep: null, promptIds: q, steps: [{ chosenIds: byte('b'), rejected: [{ ids: byte('c') }] }] },
      { promptIds: [4], firstStep: null, steps: [{ chosenIds: [5], rejected: [{ ids: [6], weight: 0.25 }] }] },
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
      { promptIds: q, firstStep: null, steps: [{ chosenIds: byte('b'), rejected: [{ ids: byte('c'), mix: 0.75 }] }] },
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

  it('takes the ids of a record that has both, where they say what the text says', async () => {
    // The prompt's ids may have their special tokens or not.
    for (const prompt_ids of [byte('q'), q]) {
      const both = { ...pair, prompt_ids, chosen_ids: byte('b'), rejected_ids: byte('c') };
      const [tree] = await read(readPreferenceTrees, [both]);
      expect(tree?.promptIds).toEqual(prompt_ids);
    }
    const other = { ...pair, chosen_ids: byte('x') };
    await expect(read(readPreferenceTrees, [pair, other])).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(
        /in\.jsonl:2: chosen_ids: expected the ids of chosen under the tokenizer of .*, which is "b"; they read "x"$/,
      ),
    });
  });

  it('so it does with the rejected steps of a tree', async () => {
    const tree = (rejected: object) => ({ prompt: 'q', steps: [{ chosen: 'b', rejected: [{ text: 'd' }, rejected] }] });
    const [same] = await read(readPreferenceTrees, [tree({ text: 'c', ids: byte(' c') })]);
    expect(same?.steps[0]?.rejected[1]?.ids).toEqual(byte(' c'));
    await expect(read(readPreferenceTrees, [tree({ text: 'c', ids: byte('x') })])).rejects.toMatchObject({
      code: 'INVALID_DATA',
      message: expect.stringMatching(
        /:1: steps\[0\]\.rejected\[1\]\.ids: expected the ids of steps\[0\]\.rejected\[1\]\.text under .*, which is "c"; they read "x"$/,
      ),
    });
  });

  it('refuses a tokenizer whose ids the model does not have', async () => {
    const small = { ...limits, vocabSize: 100 };
    await expect(read(readPreferenceTrees, [pair], small)).rejects.toMatchObject({
      code: 'TOKEN_OUT_OF_RANGE',
      message: expect.stringMatching(
        /in\.jsonl:1: prompt: expected ids below the model's vocabulary of 100, .* gives 116/,
      ),
    });
  });

  it('knows which step a line of pairs.jsonl judges', async () => {
    const lines = [{ ...pair, step: 3 }, { ...pair, step: 'three' }, pair];
    const trees = await read(readPreferenceTrees, lines);
    expect(trees.map(({ firstStep }) => firstStep)).toEqual([3, null, null]);
  });

  it("puts Step-DPO's first steps after the prompt", async () => {
    expect(await read(readPreferenceTrees, [{ ...pair, initial_reason_steps: 'xy', dataset: 'other' }])).toEqual([
      {
        promptIds: [...q, ...byte('xy')],
        firstStep: null,
        steps: [{ chosenIds: byte('b'), rejected: [{ ids: byte('c') }] }],
      },
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

  describe('longer than allowed', () => {
    const long = (length: number): number[] => Array(length).fill(7);
    const record = {
      prompt_ids: [4],
      steps: [
        { chosen_ids: long(10), rejected: [{ ids: [6] }] },
        { chosen_ids: long(10), rejected: [{ ids: [6] }, { ids: long(30) }] },
        { chosen_ids: [5], rejected: [{ ids: [6] }] },
      ],
    };
    const within = (length: LengthLimit) => (path: string, own: RecordLimits) => readPreferenceTrees(path, own, length);

    it('loses whole steps from the first that is too long, counted', async () => {
      const length = LengthLimit.of(40, 30, 'cut');
      const flat = { prompt_ids: [4], chosen_ids: long(30), rejected_ids: [5] };
      const trees = await read(within(length), [record, flat, { ...record, steps: record.steps.slice(1) }, pair]);
      expect(trees).toEqual([
        {
          promptIds: [4],
          steps: record.steps.slice(0, 1).map(({ chosen_ids, rejected }) => ({ chosenIds: chosen_ids, rejected })),
        },
        expect.objectContaining({ promptIds: q }),
      ]);
      expect(length.counts()).toEqual({ cut_steps: 4, dropped_pairs: 3 + 1 + 3 });
      expect(length.remark()).toBe('longer than 30 tokens: 4 cut steps, 7 dropped pairs');
    });

    it('is refused by default, by the limit that was given', async () => {
      await expect(read(within(LengthLimit.of(40, 30)), [record])).rejects.toMatchObject({
        code: 'CONTEXT_TOO_LONG',
        message: expect.stringContaining('steps[1]: expected at most 30 tokens, --max-length, got 41'),
      });
      const [tree] = await read(within(LengthLimit.of(41)), [record]);
      expect(tree?.steps).toHaveLength(3);
    });

    it('leaves nothing of a file: that is an error', async () => {
      const length = LengthLimit.of(40, 2, 'cut');
      await expect(read(within(length), [record])).rejects.toThrow(
        'in.jsonl: expected a pair that fits, longer than 2 tokens: 3 cut steps, 4 dropped pairs',
      );
    });

    it.each([0, 1, 41, 2.5])('has no limit of %d tokens in a model of 40', (length) => {
      expect(() => LengthLimit.of(40, length)).toThrow(
        `--max-length: expected a whole number from 2 to the model's 40 positions, got ${length}`,
      );
    });
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
      { prompt_ids: Array(39).fill(4), chosen: 'bbb', rejected: 'c' },
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

  it('reads segments of ids with weights', async () => {
    const segments = [
      { ids: [4, 5], weight: 0 },
      { ids: [6], weight: 0.5 },
    ];
    expect(await read(readSftExamples, [{ segments }], bare)).toEqual([{ segments }]);
  });

  it('cuts whole turns from the end of what is too long, and drops what has none left, counted', async () => {
    const ids = (length: number): number[] => Array(length).fill(7);
    const turns = [
      { ids: ids(5), weight: 0 },
      { ids: ids(5), weight: 1 },
      { ids: ids(5), weight: 0 },
      { ids: ids(5), weight: 1 },
      { ids: ids(20), weight: 1 },
    ];
    const plain = (prompt: number) => ({ prompt_ids: ids(prompt), completion_ids: [8] });
    const length = LengthLimit.of(40, 19, 'cut');
    const records = [{ segments: turns }, plain(18), plain(19)];
    const examples = await read((path, within) => readSftExamples(path, within, { length }), records, bare);
    // A turn of the user with no answer is no use either.
    expect(examples.map(({ segments }) => segments.length)).toEqual([2, 2]);
    expect(length.counts()).toEqual({ cut_steps: 2, dropped_examples: 1 });
    await expect(
      read((path, within) => readSftExamples(path, within, { length: LengthLimit.of(40, 19, 'cut') }), [plain(30)]),
    ).rejects.toThrow('expected an example that fits, longer than 19 tokens: 1 dropped examples');
  });

  it.each([
    [{ segments: [{ ids: [4], weight: 0 }] }, 'segments: expected at least one with a weight above 0, got none'],
    [{ segments: [{ ids: [400], weight: 1 }] }, 'segments[0].ids[0]: expected a token id from 0 to 262, got 400'],
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
