// Stepward's side of the rollout benchmark on a job file. Prints one JSON object.
//
//     stepward.mjs decode|search|sharing|rows MODEL JOB THREADS DTYPE
//
// The forms of a job file: README.md. `seconds` leaves out loading and a warm-up on other ids. A search job names the
// tokens of header, problems and tail; what it samples and judges is written back as `rounds`, for the peers to replay.

import { readFileSync } from 'node:fs';
import { Engine, setThreads, tallyWins } from '../../dist/index.js';

const [what, directory, jobFile, threads, dtype] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile, 'utf8'));
const seconds = (start) => (performance.now() - start) / 1000;

/** Samples exactly `tokens` tokens after each node. */
function sample(engine, nodes, samples, tokens, more = {}) {
  const { seed, temperature, top_p: topP } = job;
  const length = { minNewTokens: tokens, maxNewTokens: tokens, eosIds: new Int32Array(0) };
  return engine.tree.fork(nodes, { samples, seed, temperature, topP, ...length, ...more });
}

const rowsOf = ({ tokens, offsets, finish }) =>
  Array.from(finish, (_, row) => Array.from(tokens.subarray(offsets[row], offsets[row + 1])));

const nodesOf = ({ firstNode, finish }) => Array.from(finish, (_, row) => firstNode + row);

/** Measures sampling alone: one batch of prompts, `new_tokens` each. */
async function decode(engine, prompts = job.prompts) {
  const start = performance.now();
  const nodes = prompts.map((ids) => engine.tree.open(ids));
  const fork = await sample(engine, nodes, 1, job.new_tokens);
  const took = seconds(start);
  engine.tree.release([...nodes, ...nodesOf(fork)]);
  const generated = fork.tokens.length;
  return { seconds: took, generated_tokens: generated, tokens_per_second: generated / took };
}

/** Measures a step search: `width` candidates a step, every ordered pair judged by the labels' log-probs. */
async function search(engine) {
  const { header, problems, tail, width, steps, step_tokens: stepTokens } = job;
  const labels = Int32Array.from(job.label_ids);
  const rounds = Array.from({ length: steps }, () => ({ sample: [], width, step_tokens: stepTokens, judge: [] }));
  const label_logprobs = [];
  let [sampleSeconds, judgeSeconds] = [0, 0];
  const { tree } = engine;
  const before = await tree.counters();
  const start = performance.now();
  const head = tree.open(header);
  const trunks = problems.map((ids) => ({ ids: [ids], nodes: [tree.open(ids)], judged: [tree.append(head, ids)] }));
  for (const round of rounds) {
    const sampling = performance.now();
    const keys = {
      treeKeys: BigUint64Array.from(trunks.keys(), BigInt),
      steps: new Int32Array(trunks.length).fill(rounds.indexOf(round)),
    };
    const fork = await sample(
      engine,
      trunks.map(({ nodes }) => nodes.at(-1)),
      width,
      stepTokens,
      keys,
    );
    sampleSeconds += seconds(sampling);
    const judging = performance.now();
    const rows = rowsOf(fork);
    const asked = trunks.map((trunk, p) => {
      const candidates = rows.slice(p * width, (p + 1) * width);
      const first = candidates.map((ids) => tree.append(trunk.judged.at(-1), ids));
      const pairs = first.flatMap((_, a) => first.flatMap((_, b) => (a === b ? [] : [[a, b]])));
      const leaves = pairs.map(([a, b]) => tree.append(first[a], [...candidates[b], ...tail]));
      round.sample.push(trunk.ids.flat());
      for (const [a, b] of pairs)
        round.judge.push([...header, ...trunk.ids.flat(), ...candidates[a], ...candidates[b], ...tail]);
      return { candidates, first, pairs, leaves };
    });
    const leaves = asked.flatMap((one) => one.leaves);
    const reading = tree.readout(leaves, labels);
    tree.release(leaves); // each is held until it is read
    const values = await reading;
    judgeSeconds += seconds(judging);
    let at = 0;
    for (const [p, { candidates, first, pairs }] of asked.entries()) {
      const verdicts = pairs.map(([a, b]) => {
        const [x, y] = [values[at++], values[at++]];
        label_logprobs.push([x, y]);
        return { first: a, second: b, winner: x >= y ? 'first' : 'second' };
      });
      const wins = tallyWins(width, verdicts);
      const chosen = wins.indexOf(Math.max(...wins));
      const trunk = trunks[p];
      trunk.ids.push(candidates[chosen]);
      trunk.nodes.push(fork.firstNode + p * width + chosen);
      trunk.judged.push(first[chosen]);
      tree.release(first.filter((_, i) => i !== chosen));
    }
    tree.release(nodesOf(fork).filter((node) => !trunks.some(({ nodes }) => nodes.includes(node))));
  }
  const took = seconds(start);
  tree.release([head, ...trunks.flatMap(({ nodes, judged }) => [...nodes, ...judged])]);
  const counters = await tree.counters();
  return {
    seconds: took,
    sample_seconds: sampleSeconds,
    judge_seconds: judgeSeconds,
    sampled_tokens: problems.length * steps * width * stepTokens,
    judge_prompt_tokens: rounds.flatMap(({ judge }) => judge).reduce((sum, ids) => sum + ids.length, 0),
    computed_tokens: counters.promptTokensComputed - before.promptTokensComputed,
    peak_kv_bytes: counters.peakKvBytes,
    label_logprobs,
    rounds,
  };
}

/**
 * Measures `width` continuations of each prompt: forks of one node, or where the engine shares nothing a request of its own
 * for each, as an engine without forks has to.
 */
async function sharing(engine) {
  const before = await engine.tree.counters();
  const start = performance.now();
  const { prompts, width, new_tokens: tokens } = job;
  const keys = { treeKeys: BigUint64Array.from(prompts.keys(), BigInt) };
  const requests = [];
  for (let c = 0; c < (job.share ? 1 : width); c++) {
    const nodes = prompts.map((ids) => engine.tree.open(ids));
    requests.push(sample(engine, nodes, job.share ? width : 1, tokens, { ...keys, firstCandidate: c }));
  }
  const rows = (await Promise.all(requests)).map(rowsOf);
  const took = seconds(start);
  const after = await engine.tree.counters();
  const ids = prompts.flatMap((_, p) =>
    Array.from({ length: width }, (_, c) => (job.share ? rows[0][p * width + c] : rows[c][p])),
  );
  return {
    seconds: took,
    decode_seconds: after.decodeSeconds - before.decodeSeconds,
    prefill_seconds: after.prefillSeconds - before.prefillSeconds,
    ids,
  };
}

/** Measures a decoded token's cost at growing numbers of rows, prompts computed before. */
async function rows(engine) {
  const out = [];
  for (const count of job.rows) {
    const nodes = job.prompts.slice(0, count).map((ids) => engine.tree.open(ids));
    const warm = await sample(engine, nodes, 1, 1);
    engine.tree.release(nodesOf(warm));
    const start = performance.now();
    const fork = await sample(engine, nodes, 1, job.new_tokens);
    out.push({ rows: count, tokens_per_second: fork.tokens.length / seconds(start) });
    engine.tree.release([...nodes, ...nodesOf(fork)]);
  }
  return { rows: out };
}

/** The peers' warm-up: on the job's prompts backwards, which are no prefix of anything. */
async function warmUp(engine) {
  const { tree } = engine;
  const backwards = (prompts) => prompts.map((ids) => tree.open(ids.toReversed()));
  const nodes = backwards(job.prompts ?? job.problems);
  tree.release([...nodes, ...nodesOf(await sample(engine, nodes, job.width ?? 1, 2))]);
  if (what !== 'search') return;
  const { header, problems, tail, step_tokens: stepTokens, label_ids: labels } = job;
  const judged = (_, i) => [
    ...header,
    ...problems[i % problems.length],
    ...header.slice(0, 2 * stepTokens),
    ...tail,
    i,
  ];
  const asked = backwards(Array.from({ length: 8 }, judged));
  await tree.readout(asked, Int32Array.from(labels));
  tree.release(asked);
}

setThreads(Number(threads));
const engine = await Engine.load({
  directory,
  device: job.device ?? 'cpu',
  dtype,
  kvBudgetBytes: 4 * 2 ** 30,
  sharePrefixes: job.share ?? true,
});
try {
  await warmUp(engine);
  const result = await { decode, search, sharing, rows }[what](engine);
  console.log(JSON.stringify(result));
} finally {
  await engine.dispose();
}
