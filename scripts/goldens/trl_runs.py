"""trl.json: what trl.DPOTrainer logs on the same token ids, against its own start as reference."""

import copy
import tempfile

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from . import cases, models, pair_loss, preference

KEYS = ["loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "rewards/chosen", "rewards/rejected", "rewards/accuracies",
        "rewards/margins", "logps/chosen", "logps/rejected"]


class IdsTrainer(DPOTrainer):
    """Takes prompt_ids, chosen_ids and rejected_ids as they are: no EOS is added, nothing is tokenised again."""

    def _prepare_dataset(self, dataset, *_args, **_kwargs):
        return dataset


class Keep(TrainerCallback):
    """What is logged under `keys` in every step; `mark` is a key that only the logs of steps have."""

    def __init__(self, keys, mark="rewards/chosen"):
        self.keys, self.mark, self.logs = keys, mark, []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.mark in logs:
            self.logs.append({key: float(logs[key]) for key in self.keys})


# Arguments of every training: on the CPU, each step logged, nothing else written.
QUIET = dict(logging_steps=1, report_to=[], log_level="error", save_strategy="no", use_cpu=True, disable_tqdm=True, seed=1,
             remove_unused_columns=False)


def load_tokenizer(folder):
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "llama" / "tokenizer.json"), bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>", padding_side="left")


def flatten(trees):
    completions, pairs = pair_loss.unpack(trees)
    return [dict(prompt_ids=completions[c][0], chosen_ids=completions[c][1], rejected_ids=completions[r][1]) for c, r, *_ in pairs]


def run(folder, name, trees, steps, batch=None, attention="eager", **settings):
    """What is logged in each of `steps` steps of `batch` pairs (default: all of them)."""
    model = models.load(folder, name, attention)
    records = flatten(trees)
    keep = Keep(KEYS)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = DPOConfig(
            output_dir=scratch, per_device_train_batch_size=batch or len(records), gradient_accumulation_steps=1, max_steps=steps,
            max_length=None, bf16=False, fp16=False, gradient_checkpointing=False, **QUIET, **settings)
        trainer = IdsTrainer(model=model, ref_model=copy.deepcopy(model), args=arguments, train_dataset=Dataset.from_list(records),
                             processing_class=load_tokenizer(folder), callbacks=[keep])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    assert len(keep.logs) == steps, keep.logs
    return dict(pairs=len(records), steps=keep.logs)


def _same_as_autograd(folder, name, trees, opts, rate, steps) -> None:
    """TRL's numbers are those of preference.py, which dpo.json is made with."""
    own = preference.trajectory(folder, name, trees, opts, rate, len(steps))["steps"]
    for ours, theirs in zip(own, steps):
        for key, value in ours.items():
            assert abs(value - theirs[key]) <= 1e-4 * max(abs(value), 0.1), (name, opts, key, value, theirs[key])


def make(folder, checks: dict) -> list[dict]:
    vocabulary = {name: spec["config"]["vocab_size"] for name, spec in models.MODELS.items()}
    sgd = dict(optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, weight_decay=0.0)
    adamw = dict(optim="adamw_torch", lr_scheduler_type="linear", warmup_steps=1, max_grad_norm=1.0, weight_decay=0.01)
    plans = [
        ("llama", "trees", dict(), sgd | dict(learning_rate=0.05), 3),
        ("llama", "trees", dict(loss="ipo", beta=0.5), sgd | dict(learning_rate=0.002), 3),
        ("llama", "trees", dict(loss="hinge"), sgd | dict(learning_rate=0.05), 3),
        ("llama", "trees", dict(loss="robust", label_smoothing=0.2), sgd | dict(learning_rate=0.05), 3),
        ("llama", "trees", dict(loss="sigmoid_norm", beta=2.0), sgd | dict(learning_rate=0.002), 3),
        ("qwen2", "trees", dict(sft_weight=0.5), sgd | dict(learning_rate=0.02), 3),
        ("mistral", "pairs", dict(), sgd | dict(learning_rate=0.05), 3),
        ("qwen3", "pairs", dict(beta=0.3), adamw | dict(learning_rate=0.002), 5),
    ]
    out = []
    for name, form, entry, training, steps in plans:
        opts = pair_loss.options(**entry)
        trees = (cases.trees(name, vocabulary[name], False) if form == "trees"
                 else cases.pairs_as_trees(cases.pairs(name, vocabulary[name], False)))
        kinds, weights = [opts["loss"]], [1.0]
        if opts["sft_weight"]:
            kinds, weights = kinds + ["sft"], weights + [opts["sft_weight"]]
        result = run(folder, name, trees, steps, beta=opts["beta"], loss_type=kinds, loss_weights=weights,
                     label_smoothing=opts["label_smoothing"], **training)
        if training["optim"] == "sgd":
            _same_as_autograd(folder, name, trees, opts, training["learning_rate"], result["steps"])
        label = f"{name} {form} {'+'.join(kinds)} {training['optim']}"
        out.append(dict(name=label, model=name, options=opts, training=training, trees=trees, **result))
    checks["trl: margins of the last step"] = {case["name"]: case["steps"][-1]["rewards/margins"] for case in out}
    return out
