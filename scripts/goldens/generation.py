"""generate.json: greedy ids by transformers' generate, one prompt at a time, with raw log-probs of what was generated."""

import torch

from . import cases, models
from .reference import completion_logprobs

# (prompt length, max_new_tokens, min_new_tokens); prompts go beyond the windows, and new tokens too
SHAPES = [(1, 24, 0), (6, 24, 0), (13, 40, 0), (48, 24, 0), (90, 16, 0)]
GAP = 2e-3  # least distance between the best and the second logit on a greedy path: other CPUs must choose the same


def _greedy(model, prompt, eos, least, most):
    text = torch.tensor([prompt])
    out = model.generate(text, attention_mask=torch.ones_like(text), do_sample=False, max_new_tokens=most, min_new_tokens=least or None,
                         eos_token_id=eos or None, pad_token_id=0, use_cache=True)
    return out[0, len(prompt) :].tolist()


def _gap(model, prompt, new, eos, least) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + new]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    for position in range(min(least, len(new))):
        logits[position, eos] = -float("inf")
    best = logits.topk(2, dim=-1).values
    return (best[:, 0] - best[:, 1]).min().item()


def make(folder, checks: dict) -> list[dict]:
    out = []
    gaps = {}
    for name in models.MODELS:
        model = models.load(folder, name)
        model.generation_config = type(model.generation_config)()
        for index, (length, most, _) in enumerate(SHAPES):
            for attempt in range(50):
                rng = cases._random("generate", name, index, attempt)
                prompt = cases.ids(rng, model.config.vocab_size, length)
                free = _greedy(model, prompt, [], 0, most)
                # An EOS that comes up after some tokens for the first time, beside one that never does.
                later = [at for at in range(4, most // 2) if free[at] not in free[:at]]
                absent = next(token for token in range(model.config.vocab_size) if token not in free)
                if not later:
                    continue
                eos = [absent, free[later[0]]]
                variants = [("length", [absent], 0), ("eos", eos, 0), ("min-new-tokens", eos, later[0] + 3)]
                records = []
                for label, ends, least in variants:
                    new = _greedy(model, prompt, ends, least, most)
                    gap = _gap(model, prompt, new, ends, least)
                    with torch.no_grad():
                        logprobs = completion_logprobs(model, prompt, new).tolist()
                    records.append((gap, dict(
                        model=name, id=f"{name}-{length}-{label}", prompt_ids=prompt, eos_ids=ends, min_new_tokens=least,
                        max_new_tokens=most, ids=new, logprobs=logprobs, finish="eos" if new[-1] in ends else "length")))
                distinct = len({tuple(record["ids"]) for _, record in records}) == 3
                if min(gap for gap, _ in records) > GAP and distinct and len(set(free)) >= 6:
                    break
            else:
                raise AssertionError(f"no prompt of {length} tokens suits {name}")
            assert [record["finish"] for _, record in records][:2] == ["length", "eos"]
            out += [record for _, record in records]
            gaps[name] = min([gaps.get(name, 9.0)] + [gap for gap, _ in records])
    checks["generate: least distance to a tie"] = gaps
    return out
