"""The tiny models: two layers, GQA 4/2, weights large enough that nothing is near uniform or near linear.

Each has features that change its outputs; what each feature changes is checked in scoring.py.
"""

import json
import math
import pathlib

import torch
from tokenizers import Tokenizer, decoders, models as token_models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)

# name -> (config.json before weights, stored dtype, bytes per shard). `old` configs are in transformers 4's spelling.
MODELS = {
    # transformers 5 spelling, sharded, biases everywhere, llama3 rope whose three bands are all in use, a tokenizer
    "llama": dict(
        shard="40KB",
        dtype="float32",
        eos=[1],
        config=dict(
            model_type="llama", vocab_size=101, hidden_size=32, intermediate_size=48, attention_bias=True, mlp_bias=True,
            tie_word_embeddings=False, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1,
            rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
                                 high_freq_factor=4.0, original_max_position_embeddings=64), **SIZES),
    ),
    # transformers 4 spelling, bfloat16 on disk, tied, linear rope
    "llama-tied": dict(
        shard=None,
        dtype="bfloat16",
        eos=[2],
        old=True,
        config=dict(
            model_type="llama", vocab_size=97, hidden_size=32, intermediate_size=64, tie_word_embeddings=True,
            rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=2,
            rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0), **SIZES),
    ),
    # transformers 4 spelling, sliding window much shorter than the sequences, head_dim unlike hidden / heads
    "mistral": dict(
        shard=None,
        dtype="float32",
        eos=[2],
        old=True,
        config=dict(
            model_type="mistral", vocab_size=107, hidden_size=32, intermediate_size=48, tie_word_embeddings=False, head_dim=16,
            sliding_window=8, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            rope_parameters=dict(rope_type="default", rope_theta=1000.0), **SIZES),
    ),
    # transformers 4 spelling, tied, QKV biases, yarn, the second layer alone has a window
    "qwen2": dict(
        shard=None,
        dtype="float32",
        eos=[3, 7],
        old=True,
        config=dict(
            model_type="qwen2", vocab_size=113, hidden_size=48, intermediate_size=56, tie_word_embeddings=True,
            use_sliding_window=True, sliding_window=12, max_window_layers=1, rms_norm_eps=1e-6, bos_token_id=0,
            eos_token_id=3,
            rope_parameters=dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=64),
            **SIZES),
    ),
    # transformers 5 spelling, QK-norm, head_dim unlike hidden / heads, yarn with every knob turned
    "qwen3": dict(
        shard=None,
        dtype="float32",
        eos=[4],
        config=dict(
            model_type="qwen3", vocab_size=131, hidden_size=32, intermediate_size=48, tie_word_embeddings=False, head_dim=16,
            rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=4,
            rope_parameters=dict(rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=64,
                                 beta_fast=8.0, beta_slow=1.5, attention_factor=1.25, truncate=False), **SIZES),
    ),
    # bfloat16 shards of a tied qwen3 in transformers 4 spelling with default rope
    "qwen3-bf16": dict(
        shard="24KB",
        dtype="bfloat16",
        eos=[4],
        old=True,
        config=dict(
            model_type="qwen3", vocab_size=109, hidden_size=32, intermediate_size=48, tie_word_embeddings=True, head_dim=8,
            rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=4,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0), **SIZES),
    ),
}


def _fill(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("norm.weight"):
                tensor.copy_(1 + 0.4 * noise.clamp(-2, 2))
            elif tensor.dim() == 1:
                tensor.copy_(0.4 * noise)
            elif "embed_tokens" in name:
                tied = model.config.tie_word_embeddings
                tensor.copy_(noise * (2.2 / math.sqrt(tensor.shape[1]) if tied else 1.0))
            elif "lm_head" in name:
                tensor.copy_(noise * 2.2 / math.sqrt(tensor.shape[1]))
            else:
                tensor.copy_(noise * 1.3 / math.sqrt(tensor.shape[1]))


def old_spelling(config: dict) -> dict:
    """config.json of transformers 5 in the words of version 4."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    # Version 4 files say `type` (older) or `rope_type`.
    config["rope_scaling"] = None if kind == "default" else ({"type": kind} if kind == "linear" else {"rope_type": kind}) | rope
    config["transformers_version"] = "4.46.0"
    for key in ("layer_types", "head_dim") if config["model_type"] == "qwen2" else ("layer_types",):
        config.pop(key, None)
    return config


def write_tokenizer(folder: pathlib.Path) -> None:
    """One token a character, so that ids do not depend on where a text is cut. Prompts get <s> in front."""
    specials = ["<s>", "</s>", "<pad>"]
    characters = ["\n"] + [chr(code) for code in range(0x20, 0x7F)]
    as_bytes = [{"\n": "\u010a", " ": "\u0120"}.get(character, character) for character in characters]
    vocabulary = {token: index for index, token in enumerate(specials + as_bytes)}
    tokenizer = Tokenizer(token_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                    clean_up_tokenization_spaces=False, model_max_length=256)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def encode(folder: pathlib.Path, text: str, special: bool) -> list[int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=special).ids


def write_all(folder: pathlib.Path) -> None:
    for index, (name, spec) in enumerate(MODELS.items()):
        config = AutoConfig.for_model(**spec["config"])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _fill(model, 100 + index)
        model = model.to(getattr(torch, spec["dtype"]))
        target = folder / name
        model.save_pretrained(target, **({"max_shard_size": spec["shard"]} if spec["shard"] else {}))
        (target / "generation_config.json").unlink(missing_ok=True)
        path = target / "config.json"
        saved = json.loads(path.read_text())
        if spec.get("old"):
            saved = old_spelling(saved)
        path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
        if spec["eos"] != [spec["config"]["eos_token_id"]]:
            settings = dict(bos_token_id=spec["config"]["bos_token_id"], eos_token_id=spec["eos"])
            (target / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        if name == "llama":
            write_tokenizer(target)


def load(folder: pathlib.Path, name: str, attention: str = "eager", **changes):
    """The model as transformers reads it, float32; `changes` to its config take a feature away."""
    config = AutoConfig.from_pretrained(folder / name)
    for key, value in changes.items():
        setattr(config, key, value)
    model = AutoModelForCausalLM.from_pretrained(folder / name, config=config, dtype=torch.float32,
                                                 attn_implementation=attention)
    return model.eval()
