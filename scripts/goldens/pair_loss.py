"""The preference loss of a batch of pairs and TRL's metrics of it, each pair run by itself.

Completions are numbered tree by tree, step by step: the chosen step, then its rejected ones; steps without any are left out.
A pair's weight scales its preference term and its NLL term; both are divided by counts that weights do not change. Its mix is
the share of its loss; the rest is the loss of the pair the other way round (CREAM, arXiv 2410.12735).
"""

import torch
import torch.nn.functional as F

from .reference import completion_logprobs


def options(beta=0.1, loss="sigmoid", label_smoothing=0.0, sft_weight=0.0, **more) -> dict:
    """`more`: gamma, which simpo must have, and mix, of pairs without their own."""
    return dict(beta=beta, loss=loss, label_smoothing=label_smoothing, sft_weight=sft_weight, **more)


def unpack(trees):
    """Completions as (path, ids) and pairs as (chosen, rejected, weight, mix or None) by completion index."""
    completions, pairs = [], []
    for tree in trees:
        path = list(tree["prompt_ids"])
        for step in tree["steps"]:
            if step["rejected"]:
                chosen = len(completions)
                completions.append((path, step["chosen_ids"]))
                for leaf in step["rejected"]:
                    pairs.append((chosen, len(completions), leaf.get("weight", 1.0), leaf.get("mix")))
                    completions.append((path, leaf["ids"]))
            path = path + step["chosen_ids"]
    return completions, pairs


def pair_loss(opts, ratios, lengths):
    """As TRL's DPOTrainer writes each loss, and its CPOTrainer simpo, whose ratios are the policy's log-probs alone.

    `sigmoid` with smoothing is conservative DPO (arXiv 2305.18290, app. B).
    """
    kind, beta, smoothing = opts["loss"], opts["beta"], opts["label_smoothing"]
    margin = beta * (ratios[0] - ratios[1])
    mean = ratios[0] / lengths[0] - ratios[1] / lengths[1]
    if kind == "simpo":
        margin = beta * (mean - opts["gamma"] / beta)
    if kind in ("sigmoid", "simpo"):
        return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
    if kind == "hinge":
        return torch.relu(1 - margin)
    if kind == "robust":
        return (-(1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)) / (1 - 2 * smoothing)
    if kind == "ipo":
        return (mean - 1 / (2 * beta)) ** 2
    assert kind == "sigmoid_norm"
    return -F.logsigmoid(beta * mean)


def evaluate(model, trees, opts, reference):
    """One step's loss and metrics. Every pair is run by itself: nothing is shared, nothing is packed."""
    completions, pairs = unpack(trees)
    losses, rewards, logps, margins, scored, nll = [], [], [], [], 0, 0.0
    values = [completion_logprobs(model, path, ids) for path, ids in completions]
    sums = torch.stack([value.sum() for value in values])
    simpo = opts["loss"] == "simpo"
    for chosen, rejected, weight, mix in pairs:
        ratios = [sums[side] if simpo else sums[side] - reference[side] for side in (chosen, rejected)]
        lengths = [len(completions[chosen][1]), len(completions[rejected][1])]
        loss = pair_loss(opts, ratios, lengths)
        mix = opts.get("mix", 1.0) if mix is None else mix
        if mix != 1.0:
            loss = mix * loss + (1 - mix) * pair_loss(opts, ratios[::-1], lengths[::-1])
        losses.append(weight * loss)
        rewards.append([opts["beta"] * ratio.item() / (length if simpo else 1) for ratio, length in zip(ratios, lengths)])
        logps.append([sums[chosen].item(), sums[rejected].item()])
        margins.append(rewards[-1][0] - rewards[-1][1])
        nll = nll - weight * values[chosen].sum()
        scored += lengths[0]
    loss = torch.stack(losses).mean() + opts["sft_weight"] * nll / scored
    count = len(pairs)
    metrics = {
        "loss": loss.item(),
        "rewards/chosen": sum(reward[0] for reward in rewards) / count,
        "rewards/rejected": sum(reward[1] for reward in rewards) / count,
        "rewards/accuracies": sum(reward[0] > reward[1] for reward in rewards) / count,
        "rewards/margins": sum(reward[0] - reward[1] for reward in rewards) / count,
        "logps/chosen": sum(value[0] for value in logps) / count,
        "logps/rejected": sum(value[1] for value in logps) / count,
    }
    return loss, metrics, sums.detach(), margins


def sums_of(model, trees):
    with torch.no_grad():
        return torch.stack([completion_logprobs(model, path, ids).sum() for path, ids in unpack(trees)[0]])
