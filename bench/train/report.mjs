// Numbers of the training benchmark as text: spreads, differences of curves, least-squares fits.

export function spread(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return { min: sorted[0], median: sorted[Math.floor(sorted.length / 2)], max: sorted.at(-1) };
}

export const median = (values) => spread(values).median;

export function shown({ min, median, max }, digits = 2) {
  if (min === max) return median.toFixed(digits);
  return `${median.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;
}

export const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
export const gib = (bytes) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;

/** Largest absolute difference of two curves. Throws where their lengths differ. */
export function farthest(ours, theirs) {
  if (ours.length !== theirs.length) throw new Error(`expected curves of ${theirs.length} steps, got ${ours.length}`);
  return Math.max(...ours.map((value, i) => Math.abs(value - theirs[i])));
}

/** Least squares y = c0 + c1 x + ... of a degree: { coefficients, r2 }, by Gauss elimination of the normal equations. */
export function leastSquares(xs, ys, degree) {
  const size = degree + 1;
  const sum = (terms) => terms.reduce((a, b) => a + b, 0);
  const rows = Array.from({ length: size }, (_, i) => [
    ...Array.from({ length: size }, (_, j) => sum(xs.map((x) => x ** (i + j)))),
    sum(xs.map((x, n) => ys[n] * x ** i)),
  ]);
  for (let i = 0; i < size; i++) {
    const pivot = rows.slice(i).reduce((best, row) => (Math.abs(row[i]) > Math.abs(best[i]) ? row : best));
    rows.splice(rows.indexOf(pivot), 1);
    rows.splice(i, 0, pivot);
    for (let k = 0; k < size; k++) {
      if (k === i) continue;
      const factor = rows[k][i] / pivot[i];
      rows[k] = rows[k].map((value, j) => value - factor * pivot[j]);
    }
  }
  const coefficients = rows.map((row, i) => row[size] / row[i]);
  const mean = sum(ys) / ys.length;
  const left = sum(xs.map((x, n) => (ys[n] - sum(coefficients.map((c, i) => c * x ** i))) ** 2));
  return { coefficients, r2: 1 - left / sum(ys.map((y) => (y - mean) ** 2)) };
}

/** A table of cells in columns of equal width. */
export function table(rows) {
  const width = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  for (const row of rows) {
    console.log(`  ${row.map((cell, i) => (i === 0 ? cell.padEnd(width[i]) : cell.padStart(width[i]))).join('  ')}`);
  }
}
