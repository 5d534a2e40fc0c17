"""score.json: per-token log-probs of steps and candidates by transformers (float32, eager attention)."""

import copy

import torch

from . import cases, models
from .reference import completion_logprobs, float64

# What is taken away to see that it mattered: config changes, or weights that are reset.
ABLATIONS = {
    "llama": {"rope": dict(rope_parameters=dict(rope_type="default", rope_theta=500.0))},
    "llama-tied": {"rope": dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0))},
    "mistral": {"window": dict(sliding_window=None), "window by one": dict(sliding_window=7)},
    "qwen2": {
        "rope": dict(rope_parameters=dict(rope_type="default", rope_theta=100.0)),
        "window": dict(layer_types=["full_attention"] * 2),
        "window in both layers": dict(layer_types=["sliding_attention"] * 2),
    },
    "qwen3": {"rope": dict(rope_parameters=dict(rope_type="default", rope_theta=5000.0))},
    "qwen3-bf16": {"theta": dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0))},
}
RESET = {".q_proj.bias": 0.0, ".k_proj.bias": 0.0, ".o_proj.bias": 0.0, ".down_proj.bias": 0.0, ".q_norm.weight": 1.0,
         ".k_norm.weight": 1.0, ".input_layernorm.weight": 1.0, "model.norm.weight": 1.0}


def _score(model, record: dict) -> dict:
    path = list(record["prompt_ids"])
    steps = []
    with torch.no_grad():
        for step in record["steps_ids"]:
            steps.append(completion_logprobs(model, path, step).tolist())
            path = path + step
        candidates = [completion_logprobs(model, path, candidate).tolist() for candidate in record["candidates_ids"]]
    return dict(steps=steps, candidates=candidates)


def _flat(scores: list[dict]) -> torch.Tensor:
    return torch.tensor([value for score in scores for part in score["steps"] + score["candidates"] for value in part])


def make(folder, checks: dict) -> list[dict]:
    out = []
    checks["score"] = {}
    for name in models.MODELS:
        model = models.load(folder, name)
        records = cases.score_records(name, model.config.vocab_size)
        scores = [_score(model, record) for record in records]
        values = _flat(scores)
        with float64(copy.deepcopy(model)) as wide:
            exact = _flat([_score(wide, record) for record in records])
        found = {"float32 against float64": (values - exact).abs().max().item(), "spread": values.std().item()}
        assert found["float32 against float64"] < 2e-5 and found["spread"] > 1.0, (name, found)
        for label, changes in ABLATIONS[name].items():
            changed = models.load(folder, name, **changes)
            found[f"without {label}"] = (_flat([_score(changed, record) for record in records]) - values).abs().max().item()
        for suffix, value in RESET.items():
            if any(key.endswith(suffix) for key, _ in model.named_parameters()):
                changed = copy.deepcopy(model)
                with torch.no_grad():
                    for key, tensor in changed.named_parameters():
                        if key.endswith(suffix):
                            tensor.fill_(value)
                found[f"without {suffix}"] = (_flat([_score(changed, record) for record in records]) - values).abs().max().item()
        assert all(value > 0.05 for label, value in found.items() if label.startswith("without")), (name, found)
        checks["score"][name] = found
        for record, score in zip(records, scores):
            out.append(dict(model=name, record=record, **score))
    return out
