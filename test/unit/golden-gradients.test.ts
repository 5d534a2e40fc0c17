// The projections that goldens keep of a gradient are those of test/helpers/gradients.ts, and small errors show in them.

import { join } from 'node:path';
import { expect, it } from 'vitest';
import { GOLDENS, type PreferenceGolden, readGolden } from '../helpers/goldens.js';
import { type Gradient, summaryErrors, worstEntry } from '../helpers/gradients.js';
import { readTensors } from '../helpers/safetensors.js';

const { single } = readGolden<{ single: PreferenceGolden[] }>('dpo.json');

it('notices a gradient that is wrong in one tensor by 2e-5', () => {
  const golden = single.find(({ gradient_file }) => gradient_file)!;
  const exact = readTensors(join(GOLDENS, golden.gradient_file!));
  for (const name of exact.keys()) {
    const gradient: Gradient = new Map([...exact].map(([key, { values }]) => [key, Float64Array.from(values)]));
    expect(worstEntry(summaryErrors(gradient, golden.gradient)).error).toBeLessThanOrEqual(1e-7);
    const size = golden.gradient[name]!.norm / Math.sqrt(gradient.get(name)!.length);
    gradient.set(
      name,
      gradient.get(name)!.map((value, i) => value + 2e-5 * size * Math.SQRT2 * Math.sin(1 + i)),
    );
    const found = worstEntry(summaryErrors(gradient, golden.gradient));
    expect(found.name).toBe(name);
    expect(found.error).toBeGreaterThan(1e-5);
  }
});
