// Best-first search over steps, as Q* (arXiv 2406.14283) with the judge's wins for its value: the most promising solution of
// all goes on, wherever it stands.

import { type Path, Paths, pathValue } from './paths.js';
import type { ProblemSearch } from './problem-search.js';
import type { SearchTree } from './types.js';

/**
 * Expands the best open solution, at most `search.expansions` times; over when the best of all has ended, or none is open.
 * Takes the best that ended, else the best of the longest.
 */
export async function bestFirst(search: ProblemSearch): Promise<SearchTree> {
  const { depth_bonus: bonus, max_steps: maxSteps, expansions = Math.ceil((3 * maxSteps) / 2) } = search.options.search;
  const worth = (path: Path) => pathValue(path) + bonus * path.steps.length;
  const paths = new Paths(search);
  try {
    /** Best first: those that ended and those that may be expanded. */
    let queue = paths.open(paths.root) ? [paths.root] : [];
    /** Neither ended nor to be expanded. */
    const stuck: Path[] = [];
    for (let left = expansions; left > 0; left--) {
      const [best, ...rest] = queue;
      if (!best || best.ended) break;
      const children = await paths.expand(best);
      if (children.length === 0) stuck.push(best);
      queue = paths.ranked([...rest, ...children], worth);
      // One that more open ones stand before than may still be expanded never has its turn.
      let turns = left - 1;
      const hopeless = queue.filter((path) => !path.ended && (!paths.open(path) || --turns < 0));
      paths.drop(hopeless);
      stuck.push(...hopeless);
      queue = queue.filter((path) => !hopeless.includes(path));
    }
    const ended = queue.filter((path) => path.ended);
    const unfinished = paths.longest([...stuck, ...queue]);
    const [best] = paths.ranked(ended.length > 0 ? ended : unfinished, worth);
    return paths.tree(best ?? paths.root);
  } finally {
    paths.close();
  }
}
