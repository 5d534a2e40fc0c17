"""What this machine can do: memory read bandwidth and matrix product rates, with torch. Prints one JSON object.

    machine.py THREADS
"""

import json
import sys
import time

import torch


def best(work, repeat=5):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    stream = torch.ones(2**28)  # 1 GiB: no cache holds it
    read = stream.numel() * 4 / best(lambda: stream.sum())
    size = 2048
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(size, size).to(dtype)
        rates[str(dtype).removeprefix("torch.")] = 2 * size**3 / best(lambda: a @ a, 3)
    print(json.dumps(dict(read_bytes_per_second=read, flops=rates)))


if __name__ == "__main__":
    main()
