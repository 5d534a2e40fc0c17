// Pairs a second and extra peak memory against TRL, with the curves of the same runs beside each other.

import { chooseTrl } from '../peer-choice.mjs';
import { farthest, median, mib, shown, spread } from '../report.mjs';
import { parameters, trees } from '../shapes.mjs';

/** Eight judged steps of one trajectory, and one pair a problem. */
const DATA = [
  { prompt: 150, steps: 8, step: 60 },
  { prompt: 150, steps: 1, step: 60 },
];

export async function ratio(bench) {
  const { sides, options, shape } = bench;
  for (const vocabulary of options.vocab) {
    const model = await bench.model({ ...shape, vocabulary });
    for (const lengths of DATA) {
      const problems = options.pairs / lengths.steps;
      const job = { ...bench.job, batch_size: 8, trees: trees({ ...lengths, problems }, vocabulary) };
      const what = `vocabulary ${vocabulary}, prompt ${lengths.prompt}, ${lengths.steps} step(s) of ${lengths.step}`;
      console.log(`\nratio, ${what}: ${options.pairs} pairs, 8 an optimiser step`);
      const choice = chooseTrl(sides, model, job);
      const runs = bench.inTurn({
        stepward: () => sides.ours(model, job),
        trl: () => sides.theirs(model, { ...job, ...choice.fastest.configuration }),
      });
      const [ours, theirs] = [runs.stepward, runs.trl];
      const rate = (all) => spread(all.map(({ pairs, seconds }) => pairs / seconds));
      const extra = (all) => median(all.map(({ extra_bytes }) => extra_bytes));
      const [own, other] = [rate(ours), rate(theirs)];
      const gained = other.median > 0 ? own.median / other.median : Number.NaN;
      // Parameters' gradients and two moments in float32, which both sides hold.
      const held = 12 * parameters({ ...shape, vocabulary }).all;
      const result = {
        vocabulary,
        ...lengths,
        pairs_per_second: { stepward: own, trl: other },
        speed_ratio: gained,
        extra_bytes: { stepward: extra(ours), trl: extra(theirs), trl_smallest: choice.smallest.extra_bytes },
        optimizer_bytes: held,
        memory_quotient: extra(ours) / extra(theirs),
        memory_quotient_smallest: extra(ours) / choice.smallest.extra_bytes,
        loss_difference: farthest(ours[0].loss, theirs[0].loss),
        margin_difference: farthest(ours[0].margins, theirs[0].margins),
        first_loss: { stepward: ours[0].loss[0], trl: theirs[0].loss[0] },
        token_ratio: ours[0].tokens / ours[0].computed_tokens,
        trl: choice,
        runs: { ours, theirs },
      };
      bench.keep('ratio', result);
      console.log(`  pairs/s: stepward ${shown(own)}, TRL ${shown(other)}: ${gained.toFixed(2)}x`);
      console.log(
        `  extra peak: stepward ${mib(extra(ours))}, TRL ${mib(extra(theirs))}: ${result.memory_quotient.toFixed(2)} of it, ` +
          `${result.memory_quotient_smallest.toFixed(2)} of TRL's smallest; gradients and moments alone are ${mib(held)}`,
      );
      console.log(
        `  over ${ours[0].loss.length} steps loss differs by at most ${result.loss_difference.toExponential(1)}, ` +
          `margins by ${result.margin_difference.toExponential(1)}; first loss ${ours[0].loss[0]} and ${theirs[0].loss[0]}; ` +
          `tokens unpacked / computed ${result.token_ratio.toFixed(2)}`,
      );
    }
  }
}
