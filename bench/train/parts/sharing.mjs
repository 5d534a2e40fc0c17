// What sharing gains: our own time with trees packed against our own time with a chain for every completion of a pair.

import { shown, spread } from '../report.mjs';
import { flops, treeCounts, trees } from '../shapes.mjs';

const LENGTHS = { prompt: 150, steps: 8, step: 60 };

export async function sharing(bench) {
  const { sides, options } = bench;
  // Also a vocabulary so small that layers are nearly all of the work.
  for (const vocabulary of [...new Set([1024, ...options.vocab])]) {
    const shape = { ...bench.shape, vocabulary };
    const model = await bench.model(shape);
    const job = { ...bench.job, batch_size: 8, trees: trees({ ...LENGTHS, problems: 3 }, vocabulary) };
    const runs = bench.inTurn({
      packed: () => sides.ours(model, { ...job, sharing: 'on' }),
      chains: () => sides.ours(model, { ...job, sharing: 'off' }),
    });
    const counts = treeCounts(LENGTHS);
    for (const [side, wanted] of [
      ['packed', counts.packed.tokens],
      ['chains', counts.unpacked.tokens],
    ]) {
      const got = runs[side][0].computed_tokens;
      if (got !== 3 * wanted)
        throw new Error(`sharing, ${side}: expected ${3 * wanted} tokens to be computed, got ${got}`);
    }
    const [packed, chains] = [runs.packed, runs.chains].map((all) => spread(all.map(({ seconds }) => seconds)));
    const work = (side) => {
      const { train, reference } = flops(shape, counts[side]);
      return train + reference;
    };
    const gained = chains.median / packed.median;
    const tokenRatio = counts.unpacked.tokens / counts.packed.tokens;
    const workRatio = work('unpacked') / work('packed');
    bench.keep('sharing', {
      vocabulary,
      seconds: { packed, chains },
      gained,
      token_ratio: tokenRatio,
      flop_ratio: workRatio,
      share_of_token_ratio: gained / tokenRatio,
      share_of_flop_ratio: gained / workRatio,
    });
    console.log(
      `\nsharing, vocabulary ${vocabulary}: packed ${shown(packed)} s, chains ${shown(chains)} s: ${gained.toFixed(2)}x`,
    );
    console.log(
      `  of the token ratio (${tokenRatio.toFixed(2)}) ${(100 * (gained / tokenRatio)).toFixed(0)}%, of the ratio of ` +
        `operations (${workRatio.toFixed(2)}) ${(100 * (gained / workRatio)).toFixed(0)}%`,
    );
  }
}
