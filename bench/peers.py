"""The peers' side of bench/run.mjs: transformers on the files it gives it. Prints one JSON object.

    peers.py make-model DIR SHAPE          a random model folder
    peers.py score MODEL INPUT THREADS
    peers.py generate MODEL INPUT THREADS MAX_NEW_TOKENS BATCH

`seconds` leaves out importing and loading. Needs torch and transformers.
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, logging

logging.set_verbosity_error()
logging.disable_progress_bar()

SHAPES = {
    "small": dict(hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
                  vocab_size=8000),
    "medium": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=9, num_key_value_heads=3,
                   vocab_size=49152),
    # SmolLM2-135M's.
    "135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
                 vocab_size=49152),
}


def lines(file):
    with open(file) as stream:
        return [json.loads(line) for line in stream if line.strip()]


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_model(folder, shape):
    torch.manual_seed(1)
    config = LlamaConfig(max_position_embeddings=4096, tie_word_embeddings=True, initializer_range=0.05, eos_token_id=None,
                         bos_token_id=None, **SHAPES[shape])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return {}


@torch.no_grad()
def score(model, records):
    """Every candidate of a record in one right-padded batch, the plain way to score with transformers."""
    start, out = time.perf_counter(), []
    for record in records:
        path = record["prompt_ids"] + [token for step in record.get("steps_ids", []) for token in step]
        rows = [path + candidate for candidate in record["candidates_ids"]]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        keep = width - len(path) + 1
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=keep, use_cache=False).logits[:, :-1]
        picked = torch.log_softmax(logits, -1).gather(2, ids[:, len(path):, None])[..., 0]
        out.append([row[: len(candidate)].sum().item() for row, candidate in zip(picked, record["candidates_ids"])])
    return dict(seconds=time.perf_counter() - start, logprobs=out)


@torch.no_grad()
def generate(model, records, most, batch):
    model.generation_config = type(model.generation_config)()
    start, out = time.perf_counter(), []
    for first in range(0, len(records), batch):
        part = [record["prompt_ids"] for record in records[first : first + batch]]
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in part])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
        made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=most, pad_token_id=0)
        out += made[:, width:].tolist()
    return dict(seconds=time.perf_counter() - start, ids=out)


def main():
    what, model, *rest = sys.argv[1:]
    if what == "make-model":
        return make_model(model, rest[0])
    torch.set_num_threads(int(rest[1]))
    records, numbers = lines(rest[0]), [int(text) for text in rest[2:]]
    return {"score": score, "generate": generate}[what](load(model), records, *numbers)


if __name__ == "__main__":
    # Libraries write to stdout as they like: the result is the last line.
    print("\n" + json.dumps(main()))
