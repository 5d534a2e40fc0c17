"""The Python peers of the rollout benchmark: transformers and vLLM on a job file. Prints one JSON object.

    peers.py decode ENGINE MODEL JOB THREADS DTYPE
    peers.py search ENGINE MODEL JOB THREADS DTYPE

ENGINE is transformers or vllm, DTYPE float32 or bfloat16. The forms of a job file: README.md. `seconds` leaves out
imports, loading and a warm-up on other ids. Needs torch and transformers, or vllm (its CPU build).
"""

import json
import os
import sys
import time


class Transformers:
    """`generate` on one left-padded batch; prompts to judge in right-padded batches of like lengths."""

    JUDGE_TOKENS = 2048  # padded tokens of one forward pass

    def __init__(self, folder, job, threads, dtype):
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig, logging, set_seed

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.torch, self.job = torch, job
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.model.generation_config = GenerationConfig()  # no end token, none of the folder's defaults
        set_seed(job["seed"])

    def sample(self, prompts, width, tokens):
        """`width` continuations of exactly `tokens` tokens for each prompt, prompt by prompt."""
        torch, longest = self.torch, max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
        with torch.inference_mode():
            made = self.model.generate(ids, attention_mask=mask, max_new_tokens=tokens, num_return_sequences=width,
                                       do_sample=True, temperature=self.job["temperature"], top_p=self.job["top_p"],
                                       top_k=0, pad_token_id=0)
        return made[:, longest:].tolist()

    def judge(self, prompts):
        """Log-probs of the label ids as the next token after each prompt."""
        torch, out = self.torch, [None] * len(prompts)
        batches = [[]]
        for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index])):
            if (len(batches[-1]) + 1) * len(prompts[index]) > self.JUDGE_TOKENS and batches[-1]:
                batches.append([])
            batches[-1].append(index)
        with torch.inference_mode():
            for batch in filter(None, batches):
                rows = [prompts[index] for index in batch]
                longest = max(map(len, rows))
                # Padding comes after the last position that is read, so a causal model needs no mask.
                ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
                hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
                last = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
                logits = self.model.get_output_embeddings()(last).float()
                read = torch.log_softmax(logits, -1)[:, self.job["label_ids"]].tolist()
                for index, row in zip(batch, read):
                    out[index] = row
        return out

    def forget(self):
        """Nothing is kept between calls."""


class Vllm:
    """`LLM.generate` with the prefix cache on; a judge's reading is one token with the labels' log-probs."""

    def __init__(self, folder, job, threads, dtype):
        # Left alone, vLLM keeps a core for processes of its own that poll: on two cores it computes on one. In this process,
        # unbound, it computes on all `threads`.
        os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS=str(threads),
                          HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB
        from vllm import LLM, SamplingParams

        self.job, self.params = job, SamplingParams
        # The prefix cache holds whole blocks: of 128 tokens by default, of 32 at best.
        self.llm = LLM(folder, dtype=dtype, enable_prefix_caching=True, block_size=32, skip_tokenizer_init=True,
                       seed=job["seed"], disable_log_stats=True)

    def run(self, prompts, **params):
        made = self.llm.generate([dict(prompt_token_ids=row) for row in prompts],
                                 self.params(detokenize=False, ignore_eos=True, **params), use_tqdm=False)
        return [output for request in made for output in request.outputs]

    def sample(self, prompts, width, tokens):
        """`width` continuations of exactly `tokens` tokens for each prompt, prompt by prompt."""
        # No seed of a request's own: vLLM then draws for every request apart, which is slower.
        made = self.run(prompts, n=width, max_tokens=tokens, temperature=self.job["temperature"], top_p=self.job["top_p"])
        return [list(output.token_ids) for output in made]

    def judge(self, prompts):
        """Log-probs of the label ids as the next token after each prompt."""
        labels = self.job["label_ids"]
        made = self.run(prompts, max_tokens=1, temperature=0, logprob_token_ids=labels)
        return [[output.logprobs[0][label].logprob for label in labels] for output in made]

    def forget(self):
        """Empties the prefix cache."""
        self.llm.reset_prefix_cache()


def sampled(engine, prompts, width, tokens):
    """How many tokens the engine made, which must be all that were asked for."""
    lengths = [len(row) for row in engine.sample(prompts, width, tokens)]
    if lengths != [tokens] * (len(prompts) * width):
        raise ValueError(f"expected {len(prompts) * width} continuations of {tokens} tokens, got lengths {lengths}")
    return sum(lengths)


def backwards(prompts):
    """Prompts for the warm-up: as long as the job's, and no prefix of them."""
    return [row[::-1] for row in prompts]


def decode(engine, job):
    """Measures sampling alone: one batch of prompts, `new_tokens` each."""
    sampled(engine, backwards(job["prompts"]), 1, 2)
    engine.forget()
    start = time.perf_counter()
    tokens = sampled(engine, job["prompts"], 1, job["new_tokens"])
    seconds = time.perf_counter() - start
    return dict(seconds=seconds, generated_tokens=tokens, tokens_per_second=tokens / seconds)


def search(engine, job):
    """Measures step search: rounds of sampling candidates, then of judging pairs of the job's own candidates."""
    first = job["rounds"][0]
    sampled(engine, backwards(first["sample"]), first["width"], 2)
    engine.judge(backwards(first["judge"][:8]))
    engine.forget()
    sample_seconds = judge_seconds = tokens = 0
    logprobs = []
    for part in job["rounds"]:
        start = time.perf_counter()
        tokens += sampled(engine, part["sample"], part["width"], part["step_tokens"])
        between = time.perf_counter()
        logprobs += engine.judge(part["judge"])
        sample_seconds += between - start
        judge_seconds += time.perf_counter() - between
    return dict(sample_seconds=sample_seconds, judge_seconds=judge_seconds, seconds=sample_seconds + judge_seconds,
                sampled_tokens=tokens, judge_prompt_tokens=sum(len(row) for part in job["rounds"] for row in part["judge"]),
                label_logprobs=logprobs)


def main():
    what, engine, folder, file, threads, dtype = sys.argv[1:]
    with open(file) as stream:
        job = json.load(stream)
    if job["kind"] != what:
        raise ValueError(f"{file}: expected a job of kind {what}, got {job['kind']}")
    engine = {"transformers": Transformers, "vllm": Vllm}[engine](folder, job, int(threads), dtype)
    return {"decode": decode, "search": search}[what](engine, job)


if __name__ == "__main__":
    # Libraries write to stdout as they like: the result is the last line.
    print("\n" + json.dumps(main()))
