"""The preference loss of a batch of pairs and TRL's metrics of it, each pair run by itself.

Completions are numbered tree by tree, step by step: the chosen step, then its rejected ones; steps without any are left out.
A pair's weight scales its preference term and its NLL term; both are divided by counts that weights do not change.
"""

import torch
import torch.nn.functional as F

from .reference import completion_logprobs


def options(beta=0.1, loss="sigmoid", label_smoothing=0.0, sft_weight=0.0) -> dict:
    return dict(beta=beta, loss=loss, label_smoothing=label_smoothing, sft_weight=sft_weight)


def unpack(trees):
    """Completions as (path, ids) and pairs as (chosen, rejected, weight) by completion index."""
    completions, pairs = [], []
    for tree in trees:
        path = list(tree["prompt_ids"])
        for step in tree["steps"]:
            if step["rejected"]:
                chosen = len(completions)
                completions.append((path, step["chosen_ids"]))
                for leaf in step["rejected"]:
                    pairs.append((chosen, len(completions), leaf.get("weight", 1.0)))
                    completions.append((path, leaf["ids"]))
            path = path + step["chosen_ids"]
    return completions, pairs


def pair_loss(kind, margin, chosen_ratio, rejected_ratio, chosen_length, rejected_length, beta, smoothing):
    """As TRL's DPOTrainer writes each loss; `sigmoid` with smoothing is conservative DPO (arXiv 2305.18290, app. B)."""
    if kind == "sigmoid":
        return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
    if kind == "hinge":
        return torch.relu(1 - margin)
    if kind == "robust":
        return (-(1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)) / (1 - 2 * smoothing)
    mean = chosen_ratio / chosen_length - rejected_ratio / rejected_length
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
    for chosen, rejected, weight in pairs:
        ratios = [sums[chosen] - reference[chosen], sums[rejected] - reference[rejected]]
        margin = opts["beta"] * (ratios[0] - ratios[1])
        lengths = [len(completions[chosen][1]), len(completions[rejected][1])]
        losses.append(weight * pair_loss(opts["loss"], margin, *ratios, *lengths, opts["beta"], opts["label_smoothing"]))
        rewards.append([opts["beta"] * ratio.item() for ratio in ratios])
        logps.append([sums[chosen].item(), sums[rejected].item()])
        margins.append(margin.item())
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
