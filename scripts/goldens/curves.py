"""dpo-curves.json and sft-curves.json: what TRL's DPOTrainer and transformers' Trainer log over 200 steps of AdamW.

Both take the data in file order, 4 a step, for 12.5 epochs, from a rate that falls linearly: a difference of one step's
gradient or of the optimiser would grow through the steps after it. The same training with another attention kernel says
how far rounding alone carries the two apart.
"""

import tempfile

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from . import cases, models, trl_runs

STEPS, BATCH = 200, 4
ADAMW = dict(optim="adamw_torch", lr_scheduler_type="linear", max_grad_norm=1.0, weight_decay=0.01)
ROUNDING = 2e-5  # a fifth of the bar that the tests hold


def _trees(name: str) -> list[dict]:
    """16 trajectories of four judged steps: 64 pairs, a step of the optimiser is one tree."""
    rng = cases._random("curves", "trees")
    vocabulary = models.MODELS[name]["config"]["vocab_size"]
    return [dict(prompt_ids=cases.ids(rng, vocabulary, rng.randint(6, 14)), steps=[
        dict(chosen_ids=cases.ids(rng, vocabulary, rng.randint(3, 8)), rejected=[
            dict(ids=cases.ids(rng, vocabulary, rng.randint(3, 8)))]) for _ in range(4)]) for _ in range(16)]


def _chains(name: str) -> list[dict]:
    """64 examples: prompt and completion, every fourth one a dialogue of two turns; weight 0 is context."""
    rng = cases._random("curves", "chains")
    vocabulary = models.MODELS[name]["config"]["vocab_size"]

    def turn():
        return [dict(ids=cases.ids(rng, vocabulary, rng.randint(3, 12)), weight=weight) for weight in (0, 1)]

    return [dict(segments=turn() + (turn() if i % 4 == 3 else [])) for i in range(64)]


def _collate(chains):
    """Right-padded; -100 where a token is context or padding."""
    rows = [[token for segment in chain["segments"] for token in segment["ids"]] for chain in chains]
    labels = [[token if segment["weight"] else -100 for segment in chain["segments"] for token in segment["ids"]] for chain in chains]
    width = max(map(len, rows))
    return dict(input_ids=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
                attention_mask=torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
                labels=torch.tensor([row + [-100] * (width - len(row)) for row in labels]))


def _sft(folder, name, chains, attention, rate):
    keep = trl_runs.Keep(("loss", "grad_norm"), "loss")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch, per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=rate,
            train_sampling_strategy="sequential", **trl_runs.QUIET, **ADAMW)
        model = models.load(folder, name, attention)
        trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(chains), data_collator=_collate, callbacks=[keep])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    assert len(keep.logs) == STEPS, len(keep.logs)
    return keep.logs


def _dpo(folder, name, trees, attention, rate, beta):
    return trl_runs.run(folder, name, trees, STEPS, BATCH, attention, learning_rate=rate, beta=beta,
                        train_sampling_strategy="sequential", **ADAMW)["steps"]


def _columns(train, keys, label, checks):
    """One list per key, from eager attention; sdpa's must lie within ROUNDING of it."""
    eager, sdpa = train("eager"), train("sdpa")
    columns = {key: [step[key] for step in eager] for key in keys}
    apart = {key: max(abs(a - b[key]) for a, b in zip(values, sdpa)) for key, values in columns.items()}
    checks[f"curves: {label} eager against sdpa"] = apart
    assert all(value < ROUNDING for value in apart.values()), (label, apart)
    return {key: [round(value, 7) for value in values] for key, values in columns.items()}


def _training(rate):
    return dict(learning_rate=rate, batch_size=BATCH, max_steps=STEPS, schedule="linear", max_grad_norm=ADAMW["max_grad_norm"],
                weight_decay=ADAMW["weight_decay"])


def make_dpo(folder, checks: dict) -> list[dict]:
    name, rate, beta = "llama", 1e-3, 0.1
    trees = _trees(name)
    columns = _columns(lambda attention: _dpo(folder, name, trees, attention, rate, beta), ["loss", "rewards/margins"], "dpo", checks)
    assert columns["loss"][0] > 0.69 and max(columns["loss"][-16:]) < 0.1, columns["loss"]
    return [dict(model=name, beta=beta, training=_training(rate), trees=trees, steps=columns)]


def make_sft(folder, checks: dict) -> list[dict]:
    name, rate = "qwen3", 1e-3
    chains = _chains(name)
    columns = _columns(lambda attention: _sft(folder, name, chains, attention, rate), ["loss"], "sft", checks)
    assert max(columns["loss"][-16:]) < 0.7 * min(columns["loss"][:16]), columns["loss"]
    return [dict(model=name, training=_training(rate), chains=chains, steps=columns)]
