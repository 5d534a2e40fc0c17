// Shares as the command line shows them; report/format.ts has the page's own.

/** 0.5075 as 50.8%, no share as a dash. */
export function percent(share: number | null): string {
  return share === null ? '-' : `${(100 * share).toFixed(1)}%`;
}
