// Zod's issues in the project's words: each names its key by dotted path and place, what was expected and what came;
// an unknown key also names the nearest right one.

import { z } from 'zod';
import { nearest } from './nearest.js';

export type Path = readonly PropertyKey[];

/** All issues, one a line. `place` says where a path stands ("recipe.yaml:12"); `key`: the path names a key, not a value. */
export function describeIssues(
  error: z.core.$ZodError,
  schema: z.core.$ZodType,
  value: unknown,
  place: (path: Path, key: boolean) => string,
): string {
  return error.issues.flatMap((issue) => describe(issue, schema, value, [], place)).join('\n');
}

function describe(
  issue: z.core.$ZodIssue,
  schema: z.core.$ZodType,
  root: unknown,
  base: Path,
  place: (path: Path, key: boolean) => string,
): string[] {
  const path = [...base, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(schema, path, root);
    return issue.keys.map((name) => {
      const here = [...path, name];
      const hint = nearest(name, known);
      const meant = hint === undefined ? '' : `; did you mean ${dotted([...path, hint])}?`;
      return `${place(here, true)}: unknown key ${dotted(here)}${meant}`;
    });
  }
  if (issue.code === 'invalid_union') {
    const inner = bestBranch(issue.errors);
    if (inner) return inner.flatMap((nested) => describe(nested, schema, root, path, place));
  }
  const name = path.length === 0 ? '' : `${dotted(path)}: `;
  const came = at(root, path);
  const message =
    came === undefined && issue.code === 'invalid_type'
      ? `${expected(issue)}, which is missing`
      : wanted(issue, came, path);
  return [`${place(path, false)}: ${name}${message}`];
}

// The branch whose own type fitted, if exactly one did: its complaints are the useful ones.
function bestBranch(branches: z.core.$ZodIssue[][]): z.core.$ZodIssue[] | undefined {
  const fitting = branches.filter(
    (issues) =>
      !issues.some(
        (issue) => issue.path.length === 0 && (issue.code === 'invalid_type' || issue.code === 'invalid_value'),
      ),
  );
  return fitting.length === 1 ? fitting[0] : undefined;
}

function expected(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_type')
    return `expected ${issue.expected === 'int' ? 'a whole number' : article(issue.expected)}`;
  if (issue.code === 'invalid_value') return `expected ${issue.values.map((v) => JSON.stringify(v)).join(' or ')}`;
  if (issue.code === 'invalid_union') {
    const kinds = new Set(
      issue.errors.flatMap((branch) => branch.slice(0, 1).map((inner) => expected(inner).replace(/^expected /, ''))),
    );
    return `expected ${[...kinds].join(' or ')}`;
  }
  if (issue.code === 'too_small')
    return `expected ${bound(issue.origin)}${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}`;
  if (issue.code === 'too_big')
    return `expected ${bound(issue.origin)}${issue.inclusive ? 'at most' : 'less than'} ${issue.maximum}`;
  return issue.message;
}

function bound(origin: string): string {
  if (origin === 'string') return 'a text of a length ';
  return origin === 'array' ? 'a list of a length ' : '';
}

function wanted(issue: z.core.$ZodIssue, came: unknown, path: Path): string {
  // {key}: a schema does not know under which keys it stands.
  if (issue.code === 'custom') return issue.message.replace('{key}', dotted(path));
  const text = JSON.stringify(came) ?? String(came);
  return `${expected(issue)}, got ${text.length > 80 ? `${text.slice(0, 80)}...` : text}`;
}

function article(type: string): string {
  if (type === 'int') return 'a whole number';
  const name = { object: 'map of keys', array: 'list', string: 'text', boolean: 'true or false' }[type] ?? type;
  return type === 'boolean' ? name : `a ${name}`;
}

/** Keys a schema knows at a path. Looks through defaults, options, transforms, lists and the fitting branch of unions. */
export function keysAt(schema: z.core.$ZodType, path: Path, value: unknown): string[] {
  const inner = unwrap(schema);
  if (inner instanceof z.ZodUnion) {
    const branches = (inner.options as z.core.$ZodType[]).map((option) => keysAt(option, path, value));
    return branches.flat();
  }
  const [head, ...rest] = path;
  if (inner instanceof z.ZodObject) {
    const shape = inner.shape as Record<string, z.core.$ZodType>;
    if (head === undefined) return Object.keys(shape);
    const child = shape[String(head)];
    return child ? keysAt(child, rest, at(value, [head])) : [];
  }
  if (inner instanceof z.ZodArray && head !== undefined)
    return keysAt(inner.element as z.core.$ZodType, rest, at(value, [head]));
  return [];
}

function unwrap(schema: z.core.$ZodType): z.core.$ZodType {
  let inner = schema;
  while (
    inner instanceof z.ZodDefault ||
    inner instanceof z.ZodPrefault ||
    inner instanceof z.ZodOptional ||
    inner instanceof z.ZodNullable ||
    inner instanceof z.ZodPipe
  ) {
    inner = (inner instanceof z.ZodPipe ? inner.in : inner.unwrap()) as z.core.$ZodType;
  }
  return inner;
}

function at(value: unknown, path: Path): unknown {
  let current = value;
  for (const key of path) {
    if (typeof current !== 'object' || current === null) return undefined;
    current = (current as Record<PropertyKey, unknown>)[key];
  }
  return current;
}

export function dotted(path: Path): string {
  return path.map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i === 0 ? '' : '.'}${String(key)}`)).join('');
}
