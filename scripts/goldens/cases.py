"""The token sequences of the goldens: score records, preference trees, SFT chains. Seeded by name, not by order."""

import random

SEED = 20240611


def _random(*key) -> random.Random:
    return random.Random("/".join(str(part) for part in (SEED, *key)))


def ids(rng: random.Random, vocabulary: int, count: int) -> list[int]:
    return [rng.randrange(vocabulary) for _ in range(count)]


def score_records(name: str, vocabulary: int) -> list[dict]:
    shapes = [
        ("short", 5, [3, 1, 4], [2, 5]),
        ("one-token", 1, [2], [1]),
        ("no-steps", 9, [], [4, 3, 1]),
        ("long", 70, [25, 18], [12, 9, 1]),  # beyond every window and every original_max_position_embeddings
    ]
    records = []
    for label, prompt, steps, candidates in shapes:
        rng = _random("score", name, label)
        records.append(dict(
            id=f"{name}-{label}", prompt_ids=ids(rng, vocabulary, prompt),
            steps_ids=[ids(rng, vocabulary, count) for count in steps],
            candidates_ids=[ids(rng, vocabulary, count) for count in candidates]))
    return records


def trees(name: str, vocabulary: int, weighted: bool) -> list[dict]:
    """Three trees: a trunk with one to three rejected leaves a step, a step without any, a long prompt."""
    rng = _random("trees", name)
    shapes = [(11, [(5, [4, 6]), (3, [2]), (4, [7, 1, 3])]), (4, [(2, []), (6, [5])]), (75, [(8, [9]), (1, [1, 2])])]
    weights = iter([1.0, 0.5, 2.0, 0.25, 1.5, 0.75, 3.0, 0.1, 1.25, 0.6])
    result = []
    for prompt, steps in shapes:
        tree = dict(prompt_ids=ids(rng, vocabulary, prompt), steps=[])
        for chosen, rejected in steps:
            step = dict(chosen_ids=ids(rng, vocabulary, chosen), rejected=[])
            for count in rejected:
                leaf = dict(ids=ids(rng, vocabulary, count))
                if weighted:
                    leaf["weight"] = next(weights)
                step["rejected"].append(leaf)
            tree["steps"].append(step)
        result.append(tree)
    return result


def pairs(name: str, vocabulary: int, weighted: bool) -> list[dict]:
    """Plain preference pairs; two share a prompt, one has completions of one token, two begin with the same tokens."""
    rng = _random("pairs", name)
    shapes = [(12, 6, 4), (3, 1, 1), (40, 9, 12), (7, 5, 5), (20, 2, 8), (80, 10, 3)]
    result = []
    for prompt, chosen, rejected in shapes:
        result.append(dict(prompt_ids=ids(rng, vocabulary, prompt), chosen_ids=ids(rng, vocabulary, chosen),
                           rejected_ids=ids(rng, vocabulary, rejected)))
    result[3]["prompt_ids"] = list(result[0]["prompt_ids"])
    result[2]["rejected_ids"][:3] = result[2]["chosen_ids"][:3]
    if weighted:
        for record, weight in zip(result, [0.5, 2.0, 1.0, 0.25, 1.5, 3.0]):
            record["weight"] = weight
    return result


def pairs_as_trees(records: list[dict]) -> list[dict]:
    return [dict(prompt_ids=record["prompt_ids"], steps=[dict(chosen_ids=record["chosen_ids"], rejected=[
        dict(ids=record["rejected_ids"], **{key: record[key] for key in ("weight", "mix") if key in record})])])
        for record in records]


TEXT_PAIRS = [
    dict(prompt="What is 3 + 4?\n", chosen="Step 1: 3 + 4 = 7\n", rejected="Step 1: 3 + 4 = 8\n"),
    dict(prompt="Tom has 12 apples and eats 5.\n", chosen="12 - 5 = 7", rejected="He has 17 apples."),
]
STEP_DPO = [
    dict(prompt="Add 19, 24 and 8.\n", initial_reason_steps="Step 1: 19 + 24 = 43\n", chosen="Step 2: 43 + 8 = 51\n",
         rejected="Step 2: 43 + 8 = 41\n"),
    dict(prompt="What is 9 - 2?\n", initial_reason_steps="", chosen="Step 1: 9 - 2 = 7\n", rejected="Step 1: 9 - 2 = 6\n"),
]


def sft_chains(name: str, vocabulary: int) -> list[dict]:
    """Chains of segments; weight 0 is context. Fractional weights reach only the engine, not the command."""
    rng = _random("sft", name)
    shapes = [[(6, 0), (5, 1)], [(1, 0), (3, 1)], [(60, 0), (20, 1)], [(4, 0), (7, 1), (3, 0), (5, 1)], [(9, 0), (4, 0.5), (2, 2)]]
    return [dict(segments=[dict(ids=ids(rng, vocabulary, count), weight=weight) for count, weight in shape]) for shape in shapes]
