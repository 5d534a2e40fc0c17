"""How goldens keep a gradient: its norm and eight projections on fixed signs, per tensor.

For signs r, E[(d . r)^2] = |d|^2, so the mean square of the eight differences estimates the squared error of a tensor.
test/helpers/gradients.ts has the same signs.
"""

import numpy as np

PROJECTIONS = 8


def signs(count: int, index: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32((index * 0x9E3779B9 + 0x85EBCA6B) & 0xFFFFFFFF)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
    return np.where(x & np.uint32(1), 1.0, -1.0)


def summary(gradients: dict) -> dict:
    out = {}
    for name, tensor in gradients.items():
        flat = tensor.detach().double().numpy().reshape(-1)
        out[name] = dict(norm=float(np.linalg.norm(flat)),
                         projections=[float(flat @ signs(flat.size, index)) for index in range(PROJECTIONS)])
    return out


def collect(model) -> dict:
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters()}


def worst_error(ours: dict, exact: dict) -> float:
    return max(((ours[name].double() - exact[name].double()).norm() / exact[name].double().norm()).item() for name in exact)
