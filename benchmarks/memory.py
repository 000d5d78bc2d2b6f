"""Memory of decoding: the peak beside what the caches need, and growth over many requests.

    python benchmarks/memory.py
    python benchmarks/memory.py --parts growth --requests 2000
    OMP_NUM_THREADS=1 python benchmarks/memory.py -o results/benchmarks/memory.md

Peak: random weights, 8 rows of up to 2,048 tokens, 16 requests. What is beyond the memory before
the first pass (weights, libraries, a warm-up) is set against the caches that 8 rows of the longest
length need, of target and drafter. Growth: a tiny pair decodes 10,000 requests of 4 to 40 tokens, 8
rows together; memory when a tenth is done is set against the end. Each part is a process of its
own, on the CPU, where the system counts its resident memory. Exits with 1 where a limit is missed.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from measuring import add_output, load_average, markdown_table, page, publish, resident_bytes
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.drafters import ModelDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping

VOCABULARY, ROWS, GAMMA = 1_000, 8, 4
MOST_OF_CACHE, MOST_GROWTH = 1.15, 1.01


def model(width: int, layers: int) -> LlamaForCausalLM:
    """Random weights; the widest MLP that is usual, full heads."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def bytes_per_token(model: LlamaForCausalLM) -> int:
    """Keys and values of one token in all layers."""
    config = model.config
    width = config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * width * model.dtype.itemsize


def requests(number: int, prompt: int, shortest: int, longest: int) -> list[Request]:
    """Prompts of up to so many tokens, continued up to `longest` in all; some are that long."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for each in range(number):
        total = longest if each % 4 == 0 else _drawn(shortest, longest, generator)
        length = min(prompt, max(1, total * prompt // longest))
        tokens = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        stopping = Stopping(max_new_tokens=total - length)
        found.append(Request(request_id=str(each), prompt=tokens, stopping=stopping))
    return found


def _drawn(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def decoded(pair: tuple, asked: list[Request]) -> Iterator[Completion]:
    target, drafter = pair
    engine = Engine(target, DecodeConfig(num_speculative_tokens=GAMMA, temperature=1.0))
    yield from engine.decode(asked, drafter, batch_size=ROWS)


def wrapped(target: LlamaForCausalLM, drafter: LlamaForCausalLM) -> tuple:
    own = CausalModel(drafter, role="drafter")
    return CausalModel(target), ModelDrafter(own, vocab_size=VOCABULARY)


def peak() -> dict[str, float]:
    target, drafter = model(256, 12), model(256, 1)
    pair = wrapped(target, drafter)
    longest = 2_048
    asked = requests(16, prompt=1_984, shortest=256, longest=longest)
    for _ in decoded(pair, requests(4, prompt=8, shortest=9, longest=16)):
        pass
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    longest_text = 0
    for done in tqdm(decoded(pair, asked), total=len(asked), desc="Peak", disable=None):
        longest_text = max(longest_text, len(done.request.prompt) + len(done.token_ids))
    assert longest_text == longest, longest_text
    per_token = bytes_per_token(target) + bytes_per_token(drafter)
    weights = sum(each.nbytes for every in (target, drafter) for each in every.parameters())
    return {
        "weights": weights,
        "cache": ROWS * longest * per_token,
        "before": before,
        "beyond": resident_bytes(peak=True) - before,
    }


def growth(number: int) -> dict[str, float]:
    pair = wrapped(model(32, 2), model(32, 1))
    asked = requests(number, prompt=12, shortest=16, longest=52)
    seen, began = [], time.perf_counter()
    progress = tqdm(decoded(pair, asked), total=number, desc="Growth", disable=None)
    for done, _ in enumerate(progress, start=1):
        if done % (number // 20) == 0:
            seen.append(resident_bytes())
    return {"seconds": time.perf_counter() - began, "early": seen[1], "seen": seen}


def in_own_process(part: str, number: int) -> dict:
    command = [sys.executable, __file__, "--part", part, "--requests", str(number)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def mebibytes(number: float) -> str:
    return f"{number / 2**20:,.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("peak", "growth")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what is measured")
    parser.add_argument("--requests", type=int, default=10_000, help="for the growth, at least 20")
    parser.add_argument("--part", choices=parts, help=argparse.SUPPRESS)
    add_output(parser)
    arguments = parser.parse_args()
    if arguments.part:
        torch.manual_seed(0)
        found = peak() if arguments.part == "peak" else growth(arguments.requests)
        print(json.dumps(found))
        return 0
    load, texts, kept = load_average(), [], []
    if "peak" in arguments.parts:
        found = in_own_process("peak", arguments.requests)
        ratio = found["beyond"] / found["cache"]
        kept.append(ratio <= MOST_OF_CACHE)
        rows = [
            ["weights", mebibytes(found["weights"])],
            ["before decoding (libraries, weights, a warm-up)", mebibytes(found["before"])],
            [f"caches that {ROWS} rows of 2,048 tokens need", mebibytes(found["cache"])],
            ["peak of decoding, beyond what was before", mebibytes(found["beyond"])],
            [f"ratio of these two, wanted at most {MOST_OF_CACHE}", f"{ratio:.3f}"],
        ]
        texts.append(markdown_table(["peak", "MiB"], rows))
    if "growth" in arguments.parts:
        found = in_own_process("growth", arguments.requests)
        ratio = found["seen"][-1] / found["early"]
        kept.append(ratio <= MOST_GROWTH)
        each = arguments.requests // 20
        rows = [
            [f"{each * (number + 1):,}", mebibytes(size)]
            for number, size in enumerate(found["seen"])
            if number in (0, 1, 4, 9, 14, 19)
        ]
        rows.append([f"end over a tenth, wanted at most {MOST_GROWTH}", f"{ratio:.4f}"])
        texts.append(markdown_table(["requests done", "resident MiB"], rows))
    texts.append(f"Limits: {'kept' if all(kept) else 'MISSED'}.")
    publish(page("Memory of decoding", texts, load=load), arguments.output)
    return int(not all(kept))


if __name__ == "__main__":
    raise SystemExit(main())
