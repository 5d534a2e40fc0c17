// A model at work: its engine, its tokenizer and its compiled prompts, opened together and disposed together.

import type { JudgeConfig } from '../config/recipe.js';
import type { TextCodec } from '../data/codec.js';
import { checkFolder } from '../data/folder.js';
import { loadCodec } from '../data/tokenizer.js';
import { StepwardError } from '../errors.js';
import { Engine } from '../native/engine.js';
import type { EngineLike, EngineOptions } from '../native/types.js';
import { CompiledPrompts } from '../prompts/compile.js';
import type { PromptFormat } from '../prompts/format.js';
import { modelFormat } from '../prompts/load.js';
import { TokenText } from '../prompts/token-text.js';

export interface Policy {
  readonly engine: EngineLike;
  readonly prompts: CompiledPrompts;
  readonly text: TokenText;
  dispose(): Promise<void>;
}

export interface PolicyOptions {
  /** Default: the model folder's own. */
  format?: PromptFormat | undefined;
  /** How the model will judge: refused at once where its tokenizer cannot. Default: it will not. */
  judge?: JudgeConfig['mode'] | undefined;
}

/** An engine with a tokenizer as a policy. The engine learns the tokens' bytes, which stop texts need. */
export async function policyOf(
  engine: EngineLike,
  codec: TextCodec,
  format: PromptFormat,
  judge?: JudgeConfig['mode'],
): Promise<Policy> {
  const prompts = new CompiledPrompts(codec, format);
  if (judge !== undefined) prompts.checkJudging(judge);
  const { bytes, offsets } = codec.tokenBytes(engine.info.vocabSize);
  await engine.setTokenBytes(bytes, offsets);
  return {
    engine,
    prompts,
    text: new TokenText(codec, bytes, offsets),
    dispose: () => engine.dispose(),
  };
}

/** Loads a model folder. Throws FILE_NOT_FOUND, INVALID_ARGUMENT, or CHECKPOINT_INVALID without a tokenizer. */
export async function openPolicy(options: EngineOptions, { format, judge }: PolicyOptions = {}): Promise<Policy> {
  const { directory } = options;
  checkFolder('model', directory);
  const codec = await loadCodec(directory);
  if (!codec) {
    throw new StepwardError(
      'CHECKPOINT_INVALID',
      `${directory}: expected a tokenizer.json, found none; this work needs text`,
    );
  }
  const engine = await Engine.load(options);
  try {
    return await policyOf(engine, codec, format ?? modelFormat(directory), judge);
  } catch (error) {
    await engine.dispose();
    throw error;
  }
}
