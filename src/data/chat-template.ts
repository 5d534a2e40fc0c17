// The chat template of a model folder, as transformers finds it: chat_template.jinja, else chat_template in
// tokenizer_config.json (text, or a list of named ones of which "default" is taken).

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { StepwardError } from '../errors.js';
import type { ChatMessage } from './codec.js';
import { fileError } from './jsonl.js';

export type ChatTemplate = (messages: ChatMessage[], addGenerationPrompt: boolean) => string;

/** Undefined where the folder has none. `configured` is tokenizer_config.json's chat_template. */
export async function loadChatTemplate(
  directory: string,
  configured: unknown,
  specialTokens: Record<string, string>,
): Promise<ChatTemplate | undefined> {
  const source =
    (await readTemplateFile(join(directory, 'chat_template.jinja'))) ?? pickTemplate(configured, directory);
  if (source === undefined) return undefined;
  let template: Template;
  try {
    template = new Template(source);
  } catch (error) {
    throw new StepwardError('CHECKPOINT_INVALID', `${directory}: chat template: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return (messages, addGenerationPrompt) => {
    try {
      return template.render({
        messages,
        add_generation_prompt: addGenerationPrompt,
        tools: null,
        documents: null,
        ...specialTokens,
      });
    } catch (error) {
      const roles = messages.map((message) => message.role).join(', ');
      throw new StepwardError(
        'INVALID_ARGUMENT',
        `${directory}: chat template: cannot render messages with roles ${roles}: ${(error as Error).message}`,
        { cause: error },
      );
    }
  };
}

async function readTemplateFile(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw fileError(path, error);
  }
}

function pickTemplate(configured: unknown, directory: string): string | undefined {
  if (configured === undefined || configured === null) return undefined;
  if (typeof configured === 'string') return configured;
  const named = configured as { name?: unknown; template?: unknown }[];
  const found = Array.isArray(named) ? named.find((entry) => entry?.name === 'default')?.template : undefined;
  if (typeof found === 'string') return found;
  throw new StepwardError(
    'CHECKPOINT_INVALID',
    `${join(directory, 'tokenizer_config.json')}: chat_template: expected text or a list with one named "default"`,
  );
}
