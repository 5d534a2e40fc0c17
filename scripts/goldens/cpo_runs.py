"""cpo.json: what trl.experimental.cpo.CPOTrainer logs with loss_type simpo on the same token ids. It has no reference.

Its logps/* are means per token for simpo, which Stepward's are not: they are left out, as is num_tokens, which it does not log.
"""

import tempfile

from datasets import Dataset
from trl.experimental.cpo import CPOConfig, CPOTrainer

from . import cases, models, pair_loss, preference, trl_runs

KEYS = ["loss", "grad_norm", "learning_rate", "epoch", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"]


class IdsTrainer(CPOTrainer):
    """Takes prompt_ids, chosen_ids and rejected_ids as they are: no BOS or EOS is added, nothing is tokenised again."""

    def tokenize_row(self, feature, model=None):
        row = dict(prompt_input_ids=feature["prompt_ids"], prompt_attention_mask=[1] * len(feature["prompt_ids"]))
        for side in ("chosen", "rejected"):
            ids = feature["prompt_ids"] + feature[f"{side}_ids"]
            row[f"{side}_input_ids"] = ids
            row[f"{side}_attention_mask"] = [1] * len(ids)
            row[f"{side}_labels"] = [-100] * len(feature["prompt_ids"]) + feature[f"{side}_ids"]
        return row


def run(folder, name, trees, steps, **settings):
    # The texts only pass through: tokenize_row reads the ids.
    records = [dict(prompt="p", chosen="c", rejected="r", **record) for record in trl_runs.flatten(trees)]
    keep = trl_runs.Keep(KEYS)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = CPOConfig(
            output_dir=scratch, loss_type="simpo", cpo_alpha=0.0, max_length=4096, max_steps=steps, per_device_train_batch_size=len(records),
            gradient_accumulation_steps=1, bf16=False, fp16=False, gradient_checkpointing=False, **trl_runs.QUIET, **settings)
        trainer = IdsTrainer(model=models.load(folder, name), args=arguments, train_dataset=Dataset.from_list(records),
                             processing_class=trl_runs.load_tokenizer(folder), callbacks=[keep])
        trainer.train()
    assert len(keep.logs) == steps, keep.logs
    return dict(pairs=len(records), steps=keep.logs)


def make(folder, checks: dict) -> list[dict]:
    vocabulary = {name: spec["config"]["vocab_size"] for name, spec in models.MODELS.items()}
    sgd = dict(optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0, weight_decay=0.0)
    adamw = dict(optim="adamw_torch", lr_scheduler_type="linear", warmup_steps=1, max_grad_norm=1.0, weight_decay=0.01)
    plans = [
        ("llama", "trees", dict(beta=2.0, gamma=0.5), sgd | dict(learning_rate=0.01), 3),
        ("qwen2", "pairs", dict(beta=2.5, gamma=1.0, label_smoothing=0.1), sgd | dict(learning_rate=0.01), 3),
        ("mistral", "pairs", dict(beta=2.0, gamma=0.3), adamw | dict(learning_rate=0.002), 5),
    ]
    out = []
    for name, form, entry, training, steps in plans:
        opts = pair_loss.options(loss="simpo", **entry)
        trees = (cases.trees(name, vocabulary[name], False) if form == "trees"
                 else cases.pairs_as_trees(cases.pairs(name, vocabulary[name], False)))
        result = run(folder, name, trees, steps, beta=opts["beta"], simpo_gamma=opts["gamma"], label_smoothing=opts["label_smoothing"],
                     **training)
        if training["optim"] == "sgd":
            # TRL's numbers are those of preference.py, which dpo.json is made with.
            own = preference.trajectory(folder, name, trees, opts, training["learning_rate"], steps)["steps"]
            for ours, theirs in zip(own, result["steps"]):
                for key in KEYS:
                    if key in ours:
                        assert abs(ours[key] - theirs[key]) <= 1e-4 * max(abs(ours[key]), 0.1), (name, key, ours[key], theirs[key])
        out.append(dict(name=f"{name} {form} simpo {training['optim']}", model=name, options=opts, training=training, trees=trees, **result))
    checks["cpo: margins of the last step"] = {case["name"]: case["steps"][-1]["rewards/margins"] for case in out}
    return out
