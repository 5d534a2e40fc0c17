"""TRL's side of the training benchmark on a job file. Prints one JSON object.

    peers.py MODEL JOB THREADS

The forms of both: ../README.md. `seconds` leaves out imports, loading and making the data set and the trainer, and takes in
the reference log-probs (computed once, before training) and the training. Needs torch, transformers, trl, and for LoRA peft.
"""

import importlib.util
import json
import re
import sys
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset, disable_caching
from datasets.utils.logging import disable_progress_bar
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback, logging
from trl import DPOConfig, DPOTrainer

logging.set_verbosity_error()
logging.disable_progress_bar()
disable_progress_bar()
disable_caching()


def memory(name):
    """Kilobytes of /proc/self/status as bytes."""
    with open("/proc/self/status") as status:
        return int(re.search(rf"^{name}:\s+(\d+) kB", status.read(), re.M)[1]) * 1024


def reset_peak():
    """VmHWM starts again from what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def flatten(trees):
    """Every (chosen, rejected) of every step, after all chosen steps before it."""
    for tree in trees:
        path = tree["prompt_ids"]
        for step in tree["steps"]:
            for rejected in step["rejected"]:
                yield dict(prompt_ids=path, chosen_ids=step["chosen_ids"], rejected_ids=rejected["ids"])
            path = path + step["chosen_ids"]


class Keep(TrainerCallback):
    """Loss, margins and seconds of every optimiser step."""

    def __init__(self):
        self.loss, self.margins, self.seconds = [], [], []

    def on_train_begin(self, *_args, **_kwargs):
        self.last = time.perf_counter()

    def on_step_end(self, *_args, **_kwargs):
        synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "rewards/margins" in logs:
            self.loss.append(float(logs["loss"]))
            self.margins.append(float(logs["rewards/margins"]))


class IdsTrainer(DPOTrainer):
    """Takes token ids as they are, and counts the time of its reference pass, which its constructor makes."""

    reference_seconds = 0.0

    def _prepare_dataset(self, dataset, *_args, **_kwargs):
        return dataset

    def _precompute_ref_logps(self, *args, **kwargs):
        start = time.perf_counter()
        try:
            return super()._precompute_ref_logps(*args, **kwargs)
        finally:
            synchronize()
            self.reference_seconds += time.perf_counter() - start


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def liger():
    """The settings that switch Liger's layer kernels on, where they are installed."""
    return dict(use_liger_kernel=True) if importlib.util.find_spec("liger_kernel") else {}


def settings(job, scratch, on_cuda):
    micro = job["micro_batch"]
    assert job["batch_size"] % micro == 0, (job["batch_size"], micro)
    out = dict(
        output_dir=scratch, per_device_train_batch_size=micro, gradient_accumulation_steps=job["batch_size"] // micro,
        learning_rate=job["learning_rate"], lr_scheduler_type="linear", optim="adamw_torch_fused", max_grad_norm=1.0,
        weight_decay=0.0, beta=job["beta"], max_length=None, precompute_ref_log_probs=True,
        gradient_checkpointing=job["gradient_checkpointing"], train_sampling_strategy="sequential", logging_steps=1,
        report_to=[], save_strategy="no", use_cpu=not on_cuda, bf16=on_cuda and job.get("dtype") == "bfloat16", fp16=False, disable_tqdm=True, log_level="error",
        remove_unused_columns=False, num_train_epochs=1)
    if "max_steps" in job:
        out["max_steps"] = job["max_steps"]
    if on_cuda:
        out |= liger()
    return out


def adapters(lora):
    from peft import LoraConfig

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=lora["rank"], lora_alpha=lora.get("alpha", 2 * lora["rank"]), target_modules=targets, task_type="CAUSAL_LM")


def main():
    folder, job_file, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    with open(job_file) as file:
        job = json.load(file)
    on_cuda = job.get("device", "cpu") == "cuda"
    # bfloat16 is autocast over float32 weights: the same arithmetic as our float32 masters.
    attention = "flash_attention_2" if on_cuda and importlib.util.find_spec("flash_attn") else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    model = model.to("cuda" if on_cuda else "cpu")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>")),
                                        pad_token="<pad>", eos_token="<pad>")
    pairs, keep = list(flatten(job["trees"])), Keep()
    data = Dataset.from_list(pairs)
    load_peak = memory("VmHWM")
    reset_peak()
    resident = memory("VmRSS")
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        resident = torch.cuda.memory_allocated()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = settings(job, scratch, on_cuda)
        trainer = IdsTrainer(model=model, args=DPOConfig(**arguments), train_dataset=data, processing_class=tokenizer, callbacks=[keep],
                             peft_config=adapters(job["lora"]) if "lora" in job else None)
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        synchronize()
        seconds = time.perf_counter() - start + trainer.reference_seconds
    peak = torch.cuda.max_memory_allocated() if on_cuda else memory("VmHWM")
    return dict(seconds=seconds, reference_seconds=trainer.reference_seconds, step_seconds=keep.seconds,
                pairs=len(keep.loss) * job["batch_size"],
                resident_bytes=resident, peak_bytes=max(peak, load_peak), training_peak_bytes=peak, extra_bytes=peak - resident,
                loss=keep.loss, margins=keep.margins, liger="use_liger_kernel" in arguments,
                versions=dict(torch=torch.__version__, transformers=transformers.__version__, trl=trl.__version__))


if __name__ == "__main__":
    # Libraries write to stdout as they like: the result is the last line.
    print("\n" + json.dumps(main()))
