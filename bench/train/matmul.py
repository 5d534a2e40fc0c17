"""Rate of a large matrix product on a device, with torch. Prints one JSON object: `flops`, operations a second.

    matmul.py DEVICE DTYPE
"""

import json
import sys
import time

import torch


def main():
    device, dtype = sys.argv[1], getattr(torch, sys.argv[2])
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    times = []
    for _ in range(10):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    print(json.dumps(dict(flops=2 * size**3 / min(times))))


if __name__ == "__main__":
    main()
