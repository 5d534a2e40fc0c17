// What a training trains: adapters, weights, or weights but for some; on the way from the options to the trainer.

import { describe, expect, it } from 'vitest';
import { optimizerOptions, type TrainingCommandOptions } from '../../src/commands/training-options.js';
import { updateSchema } from '../../src/config/recipe.js';
import { optimizerOptions as optimizerOptionsOfRecipe } from '../../src/loop/training.js';
import { LORA_TARGETS, resolveOptimizer, trainerOptions } from '../../src/training/options.js';
import type { OptimizerOptions } from '../../src/training/types.js';

const trainer = (options: OptimizerOptions) => trainerOptions(resolveOptimizer(options, 1e-5));

describe('what is trained', () => {
  it('is every weight by default', () => {
    const options = trainer({});
    expect([options.lora, options.adapter, options.freeze]).toEqual([undefined, undefined, undefined]);
    expect('adapter' in options || 'freeze' in options).toBe(false);
  });

  it('reaches the trainer', () => {
    expect(trainer({ freeze: ['model.embed_tokens.*'] }).freeze).toEqual(['model.embed_tokens.*']);
    expect(trainer({ adapter: 'a', allowOtherBase: true })).toMatchObject({ adapter: 'a', allowOtherBase: true });
    expect(trainer({ lora: { rank: 4 }, seed: 9 }).lora).toEqual({ rank: 4, alpha: 8, targets: LORA_TARGETS, seed: 9 });
    const targets = ['all-linear', 'lm_head', 'layers.0.self_attn.q_proj'];
    expect(trainer({ lora: { rank: 4, targets } }).lora?.targets).toEqual(targets);
  });

  it.each([
    [{ lora: { rank: 2, targets: ['model.embed_tokens'] } }, 'targets: expected one of q_proj, k_proj'],
    [{ lora: { rank: 2 }, adapter: 'a' }, 'adapter: expected no lora options beside it'],
    [{ lora: { rank: 2 }, freeze: ['lm_head.*'] }, 'freeze: expected a training of the weights'],
    [{ adapter: 'a', freeze: ['lm_head.*'] }, 'freeze: expected a training of the weights'],
  ] as [OptimizerOptions, string][])('refuses %j', (options, message) => {
    expect(() => trainer(options)).toThrow(message);
  });
});

it("the recipe's freeze list reaches it, too", () => {
  const config = updateSchema.parse({ freeze: ['model.embed_tokens.*'] });
  expect(trainer(optimizerOptionsOfRecipe(config, 1)).freeze).toEqual(['model.embed_tokens.*']);
});

it('options of the command line that do not go together are named', () => {
  const given = (options: Partial<TrainingCommandOptions>) => optimizerOptions(options as TrainingCommandOptions);
  expect(() => given({ adapter: 'a', loraRank: 2 })).toThrow('--adapter: expected no --lora options beside it');
  expect(() => given({ adapter: 'a', loraTargets: ['q_proj'] })).toThrow('--adapter: expected no --lora options');
  expect(() => given({ loraTargets: ['q_proj'] })).toThrow('--lora-targets: expected --lora-rank beside it');
  expect(given({ loraRank: 2, loraTargets: ['q_proj', 'lm_head'], freeze: undefined }).lora).toEqual({
    rank: 2,
    targets: ['q_proj', 'lm_head'],
  });
});
