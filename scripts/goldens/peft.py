"""adapters/ and peft.json: LoRA adapters that PEFT made, and the log-probs of the models they are merged into."""

import copy
import json

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from . import cases, models
from .scoring import _flat, _score

# Golden model -> the adapter's settings. The head of llama is its own matrix; qwen2's is the embedding.
ADAPTERS = {
    "llama": dict(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj", "down_proj", "lm_head"],
                  rank_pattern={"layers.1.self_attn.q_proj": 5, "model.layers.0.mlp.down_proj": 1},
                  alpha_pattern={"v_proj": 2, r"layers\.\d\.mlp\.down_proj": 4}),
    "qwen2": dict(r=2, lora_alpha=3, target_modules="all-linear", use_rslora=True),
}
# What is taken away to see that it mattered.
ABLATIONS = {
    "llama": {"rank_pattern": {}, "alpha_pattern": {}, "lora_alpha": 8},
    "qwen2": {"use_rslora": False},
}


def _fill(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            if "lora_" in name:
                tensor.copy_(0.25 * torch.randn(tensor.shape, generator=generator))


def _merged(folder, name: str, adapter):
    model = PeftModel.from_pretrained(models.load(folder, name), str(adapter)).merge_and_unload()
    return model.eval()


def make(folder, root, checks: dict) -> list[dict]:
    out = []
    checks["peft"] = {}
    for index, (name, settings) in enumerate(ADAPTERS.items()):
        adapter = root / "adapters" / name
        model = get_peft_model(models.load(folder, name), LoraConfig(task_type="CAUSAL_LM", **settings))
        _fill(model, 300 + index)
        model.save_pretrained(str(adapter))
        (adapter / "README.md").unlink()
        path = adapter / "adapter_config.json"
        config = json.loads(path.read_text())
        config["base_model_name_or_path"] = name  # the path of the machine that made it says nothing
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()  # PEFT keeps a set, whose order changes from run to run
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

        records = [record for record in cases.score_records(name, models.MODELS[name]["config"]["vocab_size"])
                   if not record["id"].endswith("-long")]
        merged = _merged(folder, name, adapter)
        scores = [_score(merged, record) for record in records]
        values = _flat(scores)
        base = _flat([_score(models.load(folder, name), record) for record in records])
        put_on = _flat([_score(PeftModel.from_pretrained(models.load(folder, name), str(adapter)).eval(), record)
                        for record in records])
        found = {"merged against put on": (values - put_on).abs().max().item(),
                 "without the adapter": (values - base).abs().max().item()}
        for key, value in ABLATIONS[name].items():
            changed = copy.deepcopy(settings) | {key: value}
            other = get_peft_model(models.load(folder, name), LoraConfig(task_type="CAUSAL_LM", **changed))
            with torch.no_grad():
                weights = dict(model.named_parameters())
                for other_name, tensor in other.named_parameters():
                    # Ranks that another pattern changes leave the columns that both have.
                    if "lora_" in other_name:
                        sizes = [min(a, b) for a, b in zip(tensor.shape, weights[other_name].shape)]
                        tensor.zero_()
                        tensor[: sizes[0], : sizes[1]] = weights[other_name][: sizes[0], : sizes[1]]
            found[f"without {key}"] = (_flat([_score(other.eval(), record) for record in records]) - values).abs().max().item()
        assert found["merged against put on"] < 2e-5, (name, found)
        assert all(value > 0.02 for label, value in found.items() if label.startswith("without")), (name, found)
        checks["peft"][name] = found
        for record, score in zip(records, scores):
            out.append(dict(model=name, adapter=f"adapters/{name}", record=record, **score))
    return out
