"""sampling.json: the distributions that temperature, top-k, top-p and min-p leave, by transformers' logits warpers."""

import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from . import cases, models

FAMILIES = ["llama", "qwen3"]
LENGTHS = [3, 30, 90]
# (temperature, top-k, top-p, min-p); 0, 1 and 0 turn the last three off. The second is the search's default.
SETTINGS = [(1.0, 0, 1.0, 0.0), (0.5, 0, 0.95, 0.0), (1.0, 5, 1.0, 0.0), (0.7, 20, 0.8, 0.0), (1.0, 0, 1.0, 0.1), (0.8, 0, 0.9, 0.15),
            (1.3, 10, 0.95, 0.1)]
GAP = 1e-3  # least distance of any id to being kept or not: other CPUs must keep the same


def _warped(logits, temperature, top_k, top_p, min_p):
    """Log-probs of the ids that are left, -inf for the others. The order is that of GenerationMixin."""
    rows = TemperatureLogitsWarper(temperature)(None, logits[None])
    if top_k:
        rows = TopKLogitsWarper(top_k)(None, rows)
    if top_p < 1:
        rows = TopPLogitsWarper(top_p)(None, rows)
    if min_p:
        rows = MinPLogitsWarper(min_p)(None, rows)
    return rows.log_softmax(dim=-1)[0]


def _slack(logits, temperature, top_k, top_p, min_p) -> float:
    """How far the nearest id is from the other side, in logits or probability."""
    best = (logits / temperature).sort(descending=True).values.double()
    slack = 9.0
    if top_k:
        slack = min(slack, (best[top_k - 1] - best[top_k]).item())
        best = best[:top_k]
    shares = best.softmax(dim=0)
    if top_p < 1:
        slack = min(slack, (shares.cumsum(dim=0) - top_p).abs().min().item())
    if min_p:
        slack = min(slack, (shares / shares[0] - min_p).abs().min().item())
    return slack


def make(folder, checks: dict) -> list[dict]:
    out = []
    slack, kept = 9.0, {setting: [] for setting in SETTINGS}
    for name in FAMILIES:
        model = models.load(folder, name)
        for length in LENGTHS:
            for attempt in range(50):
                prompt = cases.ids(cases._random("sampling", name, length, attempt), model.config.vocab_size, length)
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].float()
                nearest = min(_slack(logits, *setting) for setting in SETTINGS)
                if nearest > GAP:
                    break
            else:
                raise AssertionError(f"no prompt of {length} tokens suits {name}")
            slack = min(slack, nearest)
            distributions = []
            for setting in SETTINGS:
                left = _warped(logits, *setting)
                kept[setting].append(int(left.isfinite().sum()))
                distributions.append(dict(zip(("temperature", "top_k", "top_p", "min_p"), setting),
                                          logprobs=[value if value > -float("inf") else None for value in left.tolist()]))
            out.append(dict(model=name, prompt_ids=prompt, logprobs=logits.log_softmax(dim=0).tolist(), distributions=distributions))
    for (_, top_k, top_p, min_p), counts in kept.items():
        cut = top_k > 0 or top_p < 1 or min_p > 0
        for count, record in zip(counts, out):
            vocabulary = len(record["logprobs"])
            assert 2 <= count < vocabulary if cut else count == vocabulary, counts
    checks["sampling: least distance to the other side"] = slack
    checks["sampling: ids kept"] = {str(setting): counts for setting, counts in kept.items()}
    return out
