"""Log-probs of unpacked sequences with transformers, in float32 as users run it or in float64 as ground truth."""

import contextlib
import sys

import torch


class _Wide:
    """`torch` as a modeling file sees it, with float32 meaning float64, so that norms and softmax are not narrowed."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


@contextlib.contextmanager
def float64(model):
    """Runs the model in float64 throughout. Rotary angles stay float32, as transformers defines them."""
    module = sys.modules[type(model).__module__]
    model.double()
    module.torch = _Wide()
    try:
        yield model
    finally:
        module.torch = torch
        model.float()


def token_logprobs(model, ids: list[int], first: int) -> torch.Tensor:
    """log p(ids[t] | ids[:t]) for t >= first, natural log; one sequence, nothing padded."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    values = torch.log_softmax(logits, dim=-1)
    return values.gather(1, torch.tensor(ids[1:])[:, None])[first - 1 :, 0]


def completion_logprobs(model, path: list[int], completion: list[int]) -> torch.Tensor:
    return token_logprobs(model, path + completion, len(path))
