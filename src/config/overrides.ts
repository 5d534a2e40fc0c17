// `--set dotted.key=value`: changes to a recipe before it is checked. Values are YAML.

import { parse } from 'yaml';
import { StepwardError } from '../errors.js';
import { keysAt } from './issues.js';
import { nearest } from './nearest.js';
import { recipeSchema } from './recipe.js';

/** Changes `root`; the key that was set. Throws INVALID_ARGUMENT or INVALID_CONFIG. */
export function applyOverride(root: Record<string, unknown>, override: string): string {
  const at = override.indexOf('=');
  if (at <= 0)
    throw new StepwardError('INVALID_ARGUMENT', `--set: expected key=value, got ${JSON.stringify(override)}`);
  const name = override.slice(0, at).trim();
  const keys = name.split('.');
  let value: unknown;
  try {
    value = parse(override.slice(at + 1));
  } catch (error) {
    throw new StepwardError(
      'INVALID_ARGUMENT',
      `--set ${name}: expected a YAML value (${(error as Error).message.split('\n')[0]})`,
    );
  }
  let current = root;
  for (const [i, key] of keys.slice(0, -1).entries()) {
    const known = keysAt(recipeSchema, keys.slice(0, i), root);
    if (!known.includes(key)) {
      const wrong = keys.slice(0, i + 1).join('.');
      const hint = nearest(key, known);
      const meant = hint === undefined ? '' : `; did you mean ${[...keys.slice(0, i), hint].join('.')}?`;
      throw new StepwardError('INVALID_CONFIG', `--set ${name}: unknown key ${wrong}${meant}`);
    }
    const next = current[key];
    if (typeof next !== 'object' || next === null || Array.isArray(next)) current[key] = {};
    current = current[key] as Record<string, unknown>;
  }
  current[keys.at(-1) as string] = value;
  return name;
}
