#!/usr/bin/env python3
"""Checks that transformers reads a model folder that Stepward wrote, and sees in it what Stepward sees.

    python scripts/check-saved-model.py SAVED [--same-as ORIGINAL] [--input RECORDS.jsonl --scores SCORES.jsonl]
                                       [--base BASE --adapter ADAPTER]

SAVED must load without a missing, unexpected or mismatched tensor. With --same-as, its logits must equal those of
ORIGINAL exactly. With --input and --scores (of `stepward score --model SAVED`), every token log-prob must agree within
1e-4. With --base and --adapter, PEFT must find a place in BASE for every tensor of ADAPTER and a tensor for every place,
and BASE with ADAPTER must have SAVED's logits within 1e-4. Exit code 0: all of it holds. Needs torch, transformers and, for adapters, peft; no test of the suite needs this script.
"""

import argparse
import json
import sys

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

TOLERANCE = 1e-4


def load(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                         output_loading_info=True)
    wrong = {key: sorted(map(str, value)) for key, value in report.items() if value}
    if wrong:
        raise SystemExit(f"{folder}: transformers reports {wrong}")
    return model.eval()


def logprobs(model, path, ids):
    sequence = path + ids
    logits = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0, :-1]
    values = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(sequence[1:])[:, None])[:, 0]
    return values[len(path) - 1 :].tolist()


def check_scores(model, records, scores):
    worst = 0.0
    for record, score in zip(records, scores, strict=True):
        path = record["prompt_ids"]
        for ids, part in zip(record.get("steps_ids", []), score["steps"], strict=True):
            worst = max([worst] + [abs(a - b) for a, b in zip(logprobs(model, path, ids), part["token_logprobs"], strict=True)])
            path = path + ids
        for ids, part in zip(record.get("candidates_ids", []), score["candidates"], strict=True):
            worst = max([worst] + [abs(a - b) for a, b in zip(logprobs(model, path, ids), part["token_logprobs"], strict=True)])
    return worst


def with_adapter(base, folder):
    """`base` with an adapter of PEFT, whose modules and tensors must be each other's."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    adapted = get_peft_model(base, PeftConfig.from_pretrained(folder))
    report = set_peft_model_state_dict(adapted, load_peft_weights(folder))
    missing = [name for name in report.missing_keys if "lora_" in name]
    if missing or report.unexpected_keys:
        raise SystemExit(f"{folder}: PEFT misses {missing} and has no place for {report.unexpected_keys}")
    return adapted.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved")
    parser.add_argument("--same-as", metavar="ORIGINAL")
    parser.add_argument("--input")
    parser.add_argument("--scores")
    parser.add_argument("--base")
    parser.add_argument("--adapter")
    options = parser.parse_args()
    if bool(options.base) != bool(options.adapter):
        parser.error("--base and --adapter go together")
    if bool(options.input) != bool(options.scores):
        parser.error("--input and --scores go together")

    logging.disable_progress_bar()
    failed = False
    with torch.no_grad():
        model = load(options.saved)
        print(f"{options.saved}: {type(model).__name__} loads")
        text = torch.arange(60)[None] * 7 % model.config.vocab_size
        if options.same_as:
            difference = (model(text).logits - load(options.same_as)(text).logits).abs().max().item()
            print(f"logits against {options.same_as}: largest difference {difference:g}")
            failed |= difference != 0
        if options.adapter:
            adapted = with_adapter(load(options.base), options.adapter)
            difference = (model(text).logits - adapted(text).logits).abs().max().item()
            print(f"logits against {options.base} with {options.adapter}: largest difference {difference:.2e}")
            failed |= not difference <= TOLERANCE
        if options.input:
            read = lambda file: [json.loads(line) for line in open(file) if line.strip()]
            worst = check_scores(model, read(options.input), read(options.scores))
            print(f"token log-probs against {options.scores}: largest difference {worst:.2e}")
            failed |= not worst <= TOLERANCE
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
