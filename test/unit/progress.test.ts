import { afterEach, describe, expect, it, vi } from 'vitest';
import { formatSeconds, Progress } from '../../src/progress.js';

function stream(isTTY: boolean) {
  const written: string[] = [];
  return { written, stream: { isTTY, write: (text: string) => written.push(text) } as unknown as NodeJS.WriteStream };
}

afterEach(() => vi.useRealTimers());

describe('Progress', () => {
  it('writes a plain line now and then where there is no terminal', () => {
    vi.useFakeTimers();
    const { written, stream: target } = stream(false);
    const progress = new Progress({ label: 'sft', total: 4, unit: 'steps', stream: target });
    progress.update(1, 'loss 2');
    expect(written).toEqual([]);
    vi.advanceTimersByTime(11_000);
    progress.update(2, 'loss 1');
    progress.update(3, 'loss 1');
    progress.finish();
    progress.finish();
    expect(written).toEqual(['sft: 2/4 steps 11s loss 1\n', 'sft: 3/4 steps 11s loss 1\n']);
  });

  it('does not say the same twice where there is no terminal', () => {
    vi.useFakeTimers();
    const { written, stream: target } = stream(false);
    const progress = new Progress({ label: 'search', total: 2, stream: target });
    vi.advanceTimersByTime(11_000);
    progress.update(2);
    vi.advanceTimersByTime(1000);
    progress.finish();
    expect(written).toEqual(['search: 2/2 11s\n']);
  });

  it('holds no news back because the last line was left out', () => {
    vi.useFakeTimers();
    const { written, stream: target } = stream(false);
    const progress = new Progress({ label: 'search', total: 3, stream: target });
    for (const done of [1, 1, 2]) {
      vi.advanceTimersByTime(done === 2 ? 1000 : 11_000);
      progress.update(done);
    }
    expect(written).toEqual(['search: 1/3 11s\n', 'search: 2/3 23s\n']);
  });

  it('redraws one line on a terminal and ends it once', () => {
    vi.useFakeTimers();
    const { written, stream: target } = stream(true);
    const progress = new Progress({ label: 'dpo', total: 2, stream: target });
    progress.update(1);
    progress.update(1);
    progress.finish();
    expect(written).toHaveLength(2);
    for (const text of written) expect(text.startsWith('\r\x1b[2K')).toBe(true);
    expect(written.map((text) => text.endsWith('\n'))).toEqual([false, true]);
  });
});

it('formatSeconds keeps two units', () => {
  expect([0.44, 12.4, 185, 7440].map(formatSeconds)).toEqual(['0.4s', '12s', '3m05s', '2h04m']);
});
