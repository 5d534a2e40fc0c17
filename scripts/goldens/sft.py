"""sft.json: loss and gradient of weighted chains by autograd in float64."""

import copy

import torch

from . import cases, gradients, models
from .reference import float64, token_logprobs


def _loss(model, chains):
    total, norm = 0.0, 0.0
    for chain in chains:
        ids = [token for segment in chain["segments"] for token in segment["ids"]]
        weight = torch.tensor([segment["weight"] for segment in chain["segments"] for _ in segment["ids"]][1:],
                              dtype=torch.float64)
        total = total - (weight * token_logprobs(model, ids, 1)).sum()
        norm += weight.sum().item()
    return total / norm, norm


def _case(folder, name, label, chains, checks):
    model = models.load(folder, name)
    narrow = copy.deepcopy(model)
    _loss(narrow, chains)[0].backward()
    with float64(model) as wide:
        loss, norm = _loss(wide, chains)
        loss.backward()
        exact = gradients.collect(wide)
        checks["sft: float32 gradient against float64"][f"{name} {label}"] = gradients.worst_error(gradients.collect(narrow), exact)
        return dict(model=name, name=label, chains=chains, token_norm=norm, loss=loss.item(), gradient=gradients.summary(exact))


def make(folder, checks: dict) -> list[dict]:
    out = []
    checks["sft: float32 gradient against float64"] = {}
    for name in ("llama", "mistral", "qwen2", "qwen3"):
        chains = cases.sft_chains(name, models.MODELS[name]["config"]["vocab_size"])
        out.append(_case(folder, name, "weighted", chains, checks))
        out.append(_case(folder, name, "plain", chains[:3], checks))  # prompt and completion: what the command reads
    return out
