// How cost grows with the number of steps, their length, the vocabulary and the model, on both sides.

import { leastSquares, median, mib, table } from '../report.mjs';
import { MODEL_SWEEP, parameters, trees } from '../shapes.mjs';

/** TRL without padding and checkpointing: no pair waits for a longer one. */
const TRL = { micro_batch: 1, gradient_checkpointing: false };

async function point(bench, shape, lengths, batchSize) {
  const { sides } = bench;
  const model = await bench.model(shape);
  const job = { ...bench.job, batch_size: batchSize, trees: trees(lengths, shape.vocabulary) };
  const runs = bench.inTurn({
    stepward: () => sides.ours(model, job),
    trl: () => sides.theirs(model, { ...job, ...TRL }),
  });
  const side = (all) => ({
    seconds: median(all.map(({ seconds }) => seconds)),
    extra_bytes: median(all.map(({ extra_bytes }) => extra_bytes)),
  });
  return { pairs: runs.stepward[0].pairs, stepward: side(runs.stepward), trl: side(runs.trl) };
}

const HEADER = ['stepward s', 'TRL s', 'ratio', 'stepward extra', 'TRL extra'];
const cells = ({ stepward, trl }) => [
  stepward.seconds.toFixed(2),
  trl.seconds.toFixed(2),
  `${(trl.seconds / stepward.seconds).toFixed(2)}x`,
  mib(stepward.extra_bytes),
  mib(trl.extra_bytes),
];

/** One optimiser step of 32 pairs each, so that the optimiser's share of a problem is K / 32 of it. */
export async function sweepK(bench) {
  const [vocabulary] = bench.options.vocab;
  const counts = [1, 2, 4, 8, 16, 32];
  const points = [];
  for (const steps of counts) {
    const lengths = { problems: 32 / steps, prompt: 150, steps, step: 60 };
    points.push({ steps, ...(await point(bench, { ...bench.shape, vocabulary }, lengths, 32)) });
  }
  const perProblem = (side) => points.map(({ steps, ...one }) => (one[side].seconds * steps) / 32);
  const fits = Object.fromEntries(
    ['stepward', 'trl'].map((side) => {
      const ys = perProblem(side);
      const straight = leastSquares(counts, ys, 1);
      const bent = leastSquares(counts, ys, 2);
      // Of the last point's time, what the squared term gives.
      const share = (bent.coefficients[2] * counts.at(-1) ** 2) / ys.at(-1);
      return [side, { linear_r2: straight.r2, squared_share: share, last_doubling: ys.at(-1) / ys.at(-2) }];
    }),
  );
  bench.keep('sweep-k', { vocabulary, points, fits });
  console.log(`\nsweep-k, vocabulary ${vocabulary}: K steps of 60 after a prompt of 150; seconds of a problem`);
  const [own, other] = [perProblem('stepward'), perProblem('trl')];
  table([
    ['K', ...HEADER],
    ...points.map((one, i) => [String(one.steps), own[i].toFixed(3), other[i].toFixed(3), ...cells(one).slice(2)]),
  ]);
  for (const [side, { linear_r2, squared_share, last_doubling }] of Object.entries(fits)) {
    console.log(
      `  ${side}: from K 16 to 32 the time grows ${last_doubling.toFixed(2)} times; R2 of a line ${linear_r2.toFixed(4)}; ` +
        `of the time at K 32 a squared term gives ${(100 * squared_share).toFixed(0)}%`,
    );
  }
}

async function sweep(bench, name, title, points) {
  const rows = [];
  for (const { label, shape, lengths } of points) rows.push({ label, ...(await point(bench, shape, lengths, 8)) });
  bench.keep(name, { points: rows });
  console.log(`\n${name}: ${title}; ${rows[0].pairs} pairs`);
  table([['', ...HEADER], ...rows.map((row) => [row.label, ...cells(row)])]);
}

const K8 = { problems: 2, prompt: 150, steps: 8, step: 60 };

export function sweepS(bench) {
  const [vocabulary] = bench.options.vocab;
  const points = [15, 30, 60, 120, 240].map((step) => ({
    label: `S ${step}`,
    shape: { ...bench.shape, vocabulary },
    lengths: { ...K8, step },
  }));
  return sweep(bench, 'sweep-s', `tokens of a step, K 8, prompt 150, vocabulary ${vocabulary}`, points);
}

export function sweepVocabulary(bench) {
  const points = [2048, 8192, 32000, 50000, 128000].map((vocabulary) => ({
    label: `V ${vocabulary}`,
    shape: { ...bench.shape, vocabulary },
    lengths: K8,
  }));
  return sweep(bench, 'sweep-vocab', 'vocabulary, K 8, prompt 150, steps of 60', points);
}

export function sweepModel(bench) {
  const [vocabulary] = bench.options.vocab;
  const points = MODEL_SWEEP.map((shape) => ({
    label: `${shape.layers} x ${shape.hidden}, ${(parameters({ ...shape, vocabulary }).all / 1e6).toFixed(1)}M`,
    shape: { ...shape, vocabulary },
    lengths: K8,
  }));
  return sweep(bench, 'sweep-model', `model, K 8, prompt 150, steps of 60, vocabulary ${vocabulary}`, points);
}
