// Loss and margins over many steps of a rate that moves them far, on both sides.

import { farthest } from '../report.mjs';
import { trees } from '../shapes.mjs';

const DATA = { problems: 16, prompt: 40, steps: 4, step: 16 };

export async function curves(bench) {
  const { sides, options, shape } = bench;
  const [vocabulary] = options.vocab;
  const model = await bench.model({ ...shape, vocabulary });
  const job = {
    ...bench.job,
    batch_size: 4,
    max_steps: options.steps,
    learning_rate: 1e-4,
    trees: trees(DATA, vocabulary, 7),
  };
  const ours = sides.ours(model, job);
  const theirs = sides.theirs(model, { ...job, micro_batch: 4, gradient_checkpointing: false });
  const result = {
    vocabulary,
    steps: options.steps,
    loss_difference: farthest(ours.loss, theirs.loss),
    margin_difference: farthest(ours.margins, theirs.margins),
    ours: { loss: ours.loss, margins: ours.margins },
    theirs: { loss: theirs.loss, margins: theirs.margins },
  };
  bench.keep('curves', result);
  console.log(`\ncurves, vocabulary ${vocabulary}: 64 pairs, 4 an optimiser step, ${options.steps} steps`);
  for (const key of ['loss', 'margins']) {
    const some = [0, 0.1, 0.25, 0.5, 1].map((share) => Math.round(share * (options.steps - 1)));
    const line = (side) => some.map((i) => side[key][i].toFixed(4)).join(' ');
    console.log(`  ${key} at steps ${some.map((i) => i + 1).join(', ')}: stepward ${line(ours)}; TRL ${line(theirs)}`);
  }
  console.log(
    `  throughout: loss differs by at most ${result.loss_difference.toExponential(1)}, margins by ${result.margin_difference.toExponential(1)}`,
  );
}
