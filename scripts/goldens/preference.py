"""dpo.json: preference losses, their gradients and short SGD runs by autograd in float64 on unpacked pairs.

Every case is kept as canonical trees; `records` are the lines the dpo command reads where they look different.
"""

import copy
import itertools

import torch
from safetensors.torch import save_file

from . import cases, gradients, models
from .pair_loss import evaluate, options, sums_of, unpack
from .reference import float64

LOSSES = [
    dict(loss="sigmoid"), dict(loss="sigmoid", label_smoothing=0.1), dict(loss="ipo"), dict(loss="hinge"),
    dict(loss="robust", label_smoothing=0.2), dict(loss="sigmoid_norm", beta=2.0), dict(loss="sigmoid", sft_weight=0.5),
    dict(loss="simpo", beta=2.0, gamma=0.5), dict(loss="simpo", beta=2.0, gamma=1.0, label_smoothing=0.1, sft_weight=0.2),
]
# Every loss over pairs that carry mixes, the rest of them with the option's.
MIXED = [
    dict(loss="sigmoid", mix=0.8), dict(loss="ipo", mix=0.8), dict(loss="hinge", mix=0.8), dict(loss="robust", label_smoothing=0.2, mix=0.8),
    dict(loss="sigmoid_norm", beta=2.0, mix=0.8), dict(loss="simpo", beta=2.0, gamma=0.5, mix=0.8),
]


def perturbed(sums, key):
    """A reference that the model is not: each completion's log-prob moved by a few nats."""
    rng = cases._random("reference", key)
    return torch.tensor([round(value - rng.gauss(0, 9.0), 4) for value in sums.tolist()], dtype=sums.dtype)


def _gradient(model, trees, opts, reference):
    model.zero_grad()
    loss, metrics, sums, margins = evaluate(model, trees, opts, reference)
    loss.backward()
    return gradients.collect(model), metrics, sums, margins


def _case(folder, name, label, trees, opts, checks, perturb, records=None):
    model = models.load(folder, name)
    narrow = copy.deepcopy(model)
    with float64(model) as wide:
        own = sums_of(wide, trees)
        # float32 values, so that the engine reads exactly this reference
        reference = perturbed(own, f"{name}/{label}").float().double() if perturb else own
        exact, metrics, sums, margins = _gradient(wide, trees, opts, reference)
    ours = _gradient(narrow, trees, opts, reference.float() if perturb else sums_of(narrow, trees))[0]
    checks["dpo: float32 gradient against float64"][f"{name} {label}"] = gradients.worst_error(ours, exact)
    if perturb:
        assert min(abs(margin) for margin in margins) > 1e-3 and max(abs(margin) for margin in margins) > 0.5, margins
    case = dict(model=name, name=label, options=opts, trees=trees)
    if records is not None:
        case["records"] = records
    if perturb:
        case["reference"] = reference.tolist()
    case.update(metrics=metrics, completion_logprobs=sums.tolist(), gradient=gradients.summary(exact))
    return case, exact


def trajectory(folder, name, trees, opts, rate, steps):
    """Metrics before each of `steps` full-batch SGD steps against the model at the start, and after the last."""
    with float64(models.load(folder, name)) as model:
        reference, out = sums_of(model, trees), []
        for _ in range(steps):
            gradient, metrics, _, margins = _gradient(model, trees, opts, reference)
            out.append(metrics)
            with torch.no_grad():
                for key, tensor in model.named_parameters():
                    tensor -= rate * gradient[key]
        assert all(abs(margin) > 1e-3 for margin in margins), margins
        return dict(model=name, name="trajectory", options=opts, trees=trees, learning_rate=rate, steps=out)


def _one_pair_trees(trees):
    completions, pairs = unpack(trees)
    return [dict(prompt_ids=completions[c][0], steps=[dict(chosen_ids=completions[c][1], rejected=[dict(ids=completions[r][1], weight=w)])])
            for c, r, w, _ in pairs]


def _batched(folder, name, trees, opts, rate, size):
    """One epoch of SGD over the pairs in file order, `size` pairs a step; the last step takes what is left."""
    pairs = _one_pair_trees(trees)
    with float64(models.load(folder, name)) as model:
        reference, out = sums_of(model, pairs), []
        for first in range(0, len(pairs), size):
            gradient, metrics, _, _ = _gradient(model, pairs[first : first + size], opts, reference[2 * first : 2 * (first + size)])
            out.append(metrics)
            with torch.no_grad():
                for key, tensor in model.named_parameters():
                    tensor -= rate * gradient[key]
        assert len(pairs) % size and abs(out[-1]["rewards/margins"]) > 1e-3
        after = {key: value.detach() - start for (key, value), start in zip(model.named_parameters(), models.load(folder, name).parameters())}
        return dict(model=name, options=opts, trees=trees, learning_rate=rate, batch_size=size, steps=out, change=gradients.summary(after))


def _text_trees(folder, records):
    def tree(record):
        prompt = models.encode(folder / "llama", record["prompt"] + record.get("initial_reason_steps", ""), True)
        chosen, rejected = (models.encode(folder / "llama", record[key], False) for key in ("chosen", "rejected"))
        return dict(prompt_ids=prompt, steps=[dict(chosen_ids=chosen, rejected=[dict(ids=rejected)])])

    return [tree(record) for record in records]


def _mixed(trees):
    """Mixes on most leaves: both ends, both sides of a half, and none."""
    trees, mixes = copy.deepcopy(trees), itertools.cycle([0.875, None, 0.5, 1.0, 0.25, 0.0, 0.75])
    for tree in trees:
        for step in tree["steps"]:
            for leaf in step["rejected"]:
                mix = next(mixes)
                if mix is not None:
                    leaf["mix"] = mix
    return trees


def make(folder, out_folder, checks: dict) -> dict:
    vocabulary = {name: spec["config"]["vocab_size"] for name, spec in models.MODELS.items()}
    checks["dpo: float32 gradient against float64"] = {}
    single = []
    # Losses and families against a reference the model is not.
    for entry in LOSSES:
        opts = options(**entry)
        label = "/".join(f"{key}={value}" for key, value in entry.items())
        single.append(_case(folder, "llama", f"trees {label}", cases.trees("llama", vocabulary["llama"], True), opts, checks, True)[0])
    for entry in MIXED:
        trees = _mixed(cases.trees("llama", vocabulary["llama"], True))
        label = f"mixed trees {entry['loss']}"
        single.append(_case(folder, "llama", label, trees, options(**entry), checks, True)[0])
    for name in ("mistral", "qwen2", "qwen3"):
        single.append(_case(folder, name, "trees", cases.trees(name, vocabulary[name], True), options(), checks, True)[0])
    # Record forms of the command, where the model is its own reference.
    for name, weighted in (("llama", False), ("qwen2", True)):
        trees = cases.trees(name, vocabulary[name], weighted)
        case, exact = _case(folder, name, "weighted tree records" if weighted else "tree records", trees, options(), checks, False, trees)
        single.append(case)
        if name == "llama":
            case["gradient_file"] = "dpo-gradient-llama.safetensors"
            save_file({key: value.float().contiguous() for key, value in exact.items()}, out_folder / case["gradient_file"])
    for name, weighted in (("qwen3", False), ("mistral", True)):
        records = cases.pairs(name, vocabulary[name], weighted)
        single.append(_case(folder, name, "weighted pair records" if weighted else "pair records", cases.pairs_as_trees(records),
                            options(), checks, False, records)[0])
    for label, records in (("text pair records", cases.TEXT_PAIRS), ("Step-DPO records", cases.STEP_DPO)):
        single.append(_case(folder, "llama", label, _text_trees(folder, records), options(sft_weight=0.2), checks, False, records)[0])
    # Options and fields of the command that have no reference, or are not of DPO itself.
    trees = cases.trees("qwen3", vocabulary["qwen3"], True)
    single.append(_case(folder, "qwen3", "tree records, simpo", trees, options(loss="simpo", beta=2.5, gamma=0.8), checks, False, trees)[0])
    trees = _mixed(cases.trees("mistral", vocabulary["mistral"], False))
    single.append(_case(folder, "mistral", "mixed tree records", trees, options(mix=0.9), checks, False, trees)[0])
    records = [dict(record, mix=mix) for record, mix in zip(cases.pairs("qwen2", vocabulary["qwen2"], True), [1.0, 0.75, 0.5, 0.9, 0.25, 0.0])]
    single.append(_case(folder, "qwen2", "mixed pair records", cases.pairs_as_trees(records), options(loss="ipo", beta=0.5), checks, False,
                        records)[0])
    runs = [
        trajectory(folder, "llama", cases.trees("llama", vocabulary["llama"], True), options(), 0.05, 4),
        trajectory(folder, "qwen3", cases.trees("qwen3", vocabulary["qwen3"], False), options(loss="ipo", beta=0.5), 0.02, 4),
        trajectory(folder, "qwen2", cases.pairs_as_trees(cases.pairs("qwen2", vocabulary["qwen2"], True)),
                    options(sft_weight=0.3, label_smoothing=0.1), 0.02, 4),
        trajectory(folder, "mistral", cases.trees("mistral", vocabulary["mistral"], True), options(loss="simpo", beta=2.0, gamma=0.5), 0.02, 4),
        trajectory(folder, "llama-tied", _mixed(cases.trees("llama-tied", vocabulary["llama-tied"], False)), options(mix=0.9), 0.05, 4),
    ]
    batched = [_batched(folder, "llama", cases.trees("llama", vocabulary["llama"], True), options(sft_weight=0.2), 0.05, 4)]
    checks["dpo: margins of the runs' last step"] = {f"{run['model']} {run['options']['loss']}": run["steps"][-1]["rewards/margins"] for run in runs}
    return dict(single=single, runs=runs, batched=batched)
