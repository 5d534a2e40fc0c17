#!/usr/bin/env python3
"""Writes test/goldens/: tiny models of every family and what transformers, torch autograd and TRL make of them.

Run by hand, from anywhere, with a Python that has torch, transformers, trl and peft (CPU builds do); no test needs it:

    python scripts/make-goldens.py

Made with torch 2.13.0, transformers 5.23.0, trl 1.16.0, peft 0.21.2, tokenizers 0.23.3. Everything is seeded: the same versions write
the same bytes. Before it writes anything the script checks that its goldens bite: a window, a rope scaling or a bias that
is taken away must change the log-probs, margins must not be zero, greedy choices must be far from ties.
"""

import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import peft
import torch
import transformers
import trl

from goldens import cases, cpo_runs, curves, generation, models, peft as peft_goldens, preference, sampling, scoring, sft, trl_runs
from goldens.files import write_json

ROOT = pathlib.Path(__file__).resolve().parent.parent / "test" / "goldens"


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    shutil.rmtree(ROOT, ignore_errors=True)
    (ROOT / "models").mkdir(parents=True)
    models.write_all(ROOT / "models")

    checks = {}
    write_json(ROOT / "score.json", scoring.make(ROOT / "models", checks))
    write_json(ROOT / "generate.json", generation.make(ROOT / "models", checks))
    write_json(ROOT / "sampling.json", sampling.make(ROOT / "models", checks))
    write_json(ROOT / "sft.json", sft.make(ROOT / "models", checks))
    write_json(ROOT / "dpo.json", preference.make(ROOT / "models", ROOT, checks))
    write_json(ROOT / "trl.json", trl_runs.make(ROOT / "models", checks))
    write_json(ROOT / "cpo.json", cpo_runs.make(ROOT / "models", checks))
    write_json(ROOT / "dpo-curves.json", curves.make_dpo(ROOT / "models", checks))
    write_json(ROOT / "sft-curves.json", curves.make_sft(ROOT / "models", checks))
    write_json(ROOT / "peft.json", peft_goldens.make(ROOT / "models", ROOT, checks))
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "trl": trl.__version__, "peft": peft.__version__}
    write_json(ROOT / "made-with.json", {"versions": versions, "seed": cases.SEED, "checks": checks})
    for file in ROOT.rglob("*.safetensors"):
        file.chmod(0o644)
    total = sum(f.stat().st_size for f in ROOT.rglob("*") if f.is_file())
    print(json.dumps(checks, indent=2))
    print(f"{total / 1e6:.2f} MB in {ROOT}")


if __name__ == "__main__":
    main()
