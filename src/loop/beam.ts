// Beam search: the best few solutions of each length go on together. A mistake that one of them made can be outlived.

import { type Path, Paths, pathValue } from './paths.js';
import { inOrder } from './pool.js';
import type { ProblemSearch } from './problem-search.js';
import type { SearchTree } from './types.js';

/**
 * Every kept solution is expanded, and the best `search.beam` of all that come of it are kept; one that has ended stays
 * while it is among them. Over when all that are kept have ended or none can go on. Takes the best that ended, even one
 * that others have pushed out since, else the best of the longest.
 */
export async function beam(search: ProblemSearch): Promise<SearchTree> {
  const { beam: width } = search.options.search;
  const paths = new Paths(search);
  const canGoOn = (path: Path) => paths.open(path);
  try {
    const ended = new Set<Path>();
    /** Neither ended nor able to go on. */
    const stuck: Path[] = [];
    let kept = [paths.root];
    for (let open = kept.filter(canGoOn); open.length > 0; open = kept.filter(canGoOn)) {
      const grown = await inOrder(open, open.length, (path) => paths.expand(path));
      stuck.push(...open.filter((_, i) => grown[i]?.length === 0));
      const children = grown.flat();
      stuck.push(...children.filter((path) => !path.ended && !canGoOn(path)));
      const rivals = [...kept.filter((path) => path.ended), ...children.filter((path) => path.ended || canGoOn(path))];
      kept = paths.ranked(rivals, pathValue).slice(0, width);
      paths.drop(rivals.filter((path) => !kept.includes(path)));
      for (const path of kept) if (path.ended) ended.add(path);
    }
    const [best] = paths.ranked(ended.size > 0 ? [...ended] : paths.longest(stuck), pathValue);
    return paths.tree(best ?? paths.root);
  } finally {
    paths.close();
  }
}
