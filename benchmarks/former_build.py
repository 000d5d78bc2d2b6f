"""This build's decoding beside a former one's: the same texts and scores, and processor time.

    OMP_NUM_THREADS=1 python benchmarks/former_build.py --former ../former \\
        -o results/benchmarks/former_build.md

Both builds decode the same prompts with the same weights, each in a process of its own, with the
package's checkout first on its path; they take turns. The clock is processor time, so that other
processes weigh on both alike. Pairs: small random Llama (fused), the embedded one, Gemma and GPT-2;
and the embedded one once more, `routed`: this build's rows all share one drafter of a routing
policy, the former build's have it without one.
"""

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import (
    ROOT,
    add_output,
    interleaved,
    load_average,
    markdown_table,
    page,
    paired_ratios,
    publish,
)
from pairs import Ours, Pair, pair, prompts
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.drafters import Drafter, PromptLookup

GAMMA, LENGTH, ROWS = 4, 48, 8
AIM = 0.98  # times the former build's speed
NOISE = 0.02  # on a random target's weights, for a drafter that often agrees
VOCABULARY = 8192  # as many as the embedded tokenizer has
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
              "num_attention_heads": 8, "num_key_value_heads": 2},
    "gemma": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
              "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 32},
    "gpt2": {"n_embd": 256, "n_layer": 4, "n_head": 8, "bos_token_id": 0, "eos_token_id": 0},
}  # fmt: skip
PAIRS = ("llama", "embedded", "gemma", "gpt2", "routed")


def random_pair(kind: str, folder: Path) -> Pair:
    """A random target of a family, and the same with noise as its drafter."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **SIZES[kind])
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / kind / "target")
    with torch.no_grad():
        for weight in model.parameters():
            weight += NOISE * weight.std() * torch.randn_like(weight)
    model.save_pretrained(folder / kind / "drafter")
    return Pair(kind, folder / kind / "target", folder / kind / "drafter")


def serve(target: Path, drafter: Path, *, routed: bool) -> None:
    """Decode all prompts for each line of input; say what came out and what it took."""
    texts, settings = prompts(2 * ROWS), DecodeConfig(num_speculative_tokens=GAMMA)
    ours = Ours(Pair("", target, drafter), settings)
    if routed:
        ours.drafter = behind_a_policy(ours)
    for _ in sys.stdin:
        before = time.process_time()
        done = ours.decode(texts, LENGTH, ROWS)
        seconds = time.process_time() - before
        counted = [
            (each.token_ids, each.counters.drafted_per_step, each.counters.accepted_per_step)
            for each in done
        ]
        result = {
            "seconds": seconds,
            "texts": digest(repr(counted).encode()),
            "scores": digest(scores(ours, texts[:ROWS])),
            "accepted": sum(sum(accepted) for *_, accepted in counted),
        }
        print(json.dumps(result), flush=True)


def behind_a_policy(ours: Ours) -> Drafter:
    """The drafter of all rows, as one of two that a policy names."""
    from lm_eval_specfair.decoding.composed.routed_drafter import RoutedDrafter  # this build alone

    device = ours.target.device
    named = {"all": ours.drafter, "nobody": PromptLookup(device)}
    return RoutedDrafter(named, "all", vocab_size=ours.target.vocab_size, device=device)


def scores(ours: Ours, texts: list[list[int]]) -> bytes:
    """The target's scores of a block after ragged prompts, to the last bit."""
    with torch.inference_mode():
        ours.target.read_prompts(list(range(len(texts))), [text[:-GAMMA] for text in texts])
        found = ours.target.score(torch.tensor([text[-GAMMA:] for text in texts]))
        ours.target.reset()
    return found.float().numpy().tobytes()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Build:
    """A build of the package in a process that waits to decode."""

    def __init__(self, checkout: Path, of: Pair, *, routed: bool = False) -> None:
        models = [str(of.target), str(of.drafter)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", *models, *(["--routed"] if routed else [])],
            env={**os.environ, "PYTHONPATH": str(checkout.resolve()), "TQDM_DISABLE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compared(of: Pair, former: Path, rounds: int, *, routed: bool) -> list[object]:
    """A row of the table."""
    with contextlib.ExitStack() as stack:
        builds = {"former": Build(former, of), "this": Build(ROOT, of, routed=routed)}
        for build in builds.values():
            stack.callback(build.close)
        found = interleaved(builds, rounds, warm_up=2)
    seconds = {name: [each["seconds"] for each in results] for name, results in found.items()}
    ratio = paired_ratios(seconds["former"], seconds["this"])

    def equal(what: str) -> str:
        return "yes" if len({each[what] for side in found.values() for each in side}) == 1 else "NO"

    kept = "kept" if ratio.median >= AIM else "MISSED"
    accepted = found["this"][0]["accepted"]
    name = f"{of.described()}{', routed' if routed else ''}"
    return [name, f"{ratio} ({kept})", equal("texts"), equal("scores"), f"{accepted:,}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--former", type=Path, help="checkout of the former build")
    parser.add_argument("--pairs", nargs="+", default=PAIRS, choices=PAIRS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    add_output(parser)
    parser.add_argument("--routed", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve, routed=arguments.routed)
        return
    if arguments.former is None:
        parser.error("--former: expected the checkout of another build, got none")
    load = load_average()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [
            compared(
                random_pair(name, folder)
                if name in SIZES
                else pair("embedded" if name == "routed" else name, folder),
                arguments.former,
                arguments.rounds,
                routed=name == "routed",
            )
            for name in tqdm(arguments.pairs)
        ]
    said = ["git", "-C", str(arguments.former), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(said, capture_output=True, text=True, check=False).stdout.strip()
    note = (
        f"Former build: commit {commit}. {2 * ROWS} prompts of the demo suite, {ROWS} rows, "
        f"{GAMMA} drafted tokens, {LENGTH} tokens each, greedy, fp32, {arguments.rounds} "
        f"interleaved rounds after two that warm up; median [smallest, largest] of the rounds' "
        f"ratios of processor time. Aim: {AIM}. Texts are equal where tokens, steps and accepted "
        "drafts of every request are; scores where the target's are, to the last bit, after ragged "
        "prompts."
    )
    headers = ["pair", "speed, this over former", "texts equal", "scores equal", "accepted drafts"]
    title = "This build's decoding beside a former build's"
    publish(page(title, [note, markdown_table(headers, rows)], load=load), arguments.output)


if __name__ == "__main__":
    main()
