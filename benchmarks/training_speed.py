"""Speed and memory of the trainer's step beside a bare loop and TRL's GKD, on the same batches.

    pip install trl
    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --rounds 3 --memory-positions 512

Speed, on the embedded pair: all sides take turns on the same batches with plain KL and the same
AdamW. Printed are medians over rounds of a round's ratio of CPU seconds (of wall-clock seconds too,
which a busy machine makes noise), with their quartiles.
The bare loop and TRL keep whole scores and measure nothing; ours measures overlap, cross-entropy
and entropy of every position. `--parts head` does the same with an EAGLE-3 head, four unrolled
steps, beside a bare loop over the same module. Where TRL is not installed, it is left out. Memory,
at a vocabulary of 152k: peak beyond the inputs, each way in a process of its own.
"""

import argparse
import copy
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET
from lm_eval_specfair.training.distil import Distiller, LiveTarget, SplitModel
from lm_eval_specfair.training.heads.head_distiller import (
    STEP_DECAY,
    HeadDistiller,
    HeadTeacher,
)
from lm_eval_specfair.training.heads.head_setup import new_head
from lm_eval_specfair.training.losses import DIVERGENCES, chunked_loss
from lm_eval_specfair.training.train_step import row_sums

ROWS, LENGTH = 8, 256
STEPS = 4  # of a head
VOCAB, WIDTH = 151_936, 256


def descend(optimizer, model) -> None:
    """What every side does with its gradients."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


class Bare:
    """What one would write in an afternoon."""

    def __init__(self, target, drafter) -> None:
        self.target, self.drafter = target, drafter
        self.optimizer = torch.optim.AdamW(drafter.parameters(), lr=1e-5)

    def step(self, tokens) -> float:
        with torch.no_grad():
            log_p = self.target(input_ids=tokens, use_cache=False).logits[:, :-1].log_softmax(-1)
        log_q = self.drafter(input_ids=tokens, use_cache=False).logits[:, :-1].log_softmax(-1)
        loss = functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean()
        loss.backward()
        descend(self.optimizer, self.drafter)
        return loss.item()


class Gkd:
    """TRL's trainer for generalised knowledge distillation, its own step on our batches.

    Texts are given (lmbda 0) and the divergence is forward KL (beta 0); what its loop does between
    steps (data, schedules, logs) is left out on all sides.
    """

    def __init__(self, target, drafter) -> None:
        from datasets import Dataset
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_TARGET)
        tokenizer.pad_token = tokenizer.eos_token
        with tempfile.TemporaryDirectory() as folder:
            config = GKDConfig(
                output_dir=folder,
                lmbda=0.0,
                beta=0.0,
                temperature=1.0,
                per_device_train_batch_size=ROWS,
                max_length=LENGTH,
                max_steps=1,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to=[],
            )
            self.trainer = GKDTrainer(
                model=drafter,
                teacher_model=target,
                args=config,
                processing_class=tokenizer,
                train_dataset=Dataset.from_list([{"messages": []}]),
            )
        self.model = self.trainer.model
        assert not self.model.is_gradient_checkpointing  # its default, which costs a pass
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    def step(self, tokens) -> float:
        given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
        # The count of learnt tokens, as its loop passes it: else the loss is divided once more.
        count = torch.tensor(tokens.shape[0] * (tokens.shape[1] - 1))
        loss = self.trainer.training_step(self.model, given, count)
        descend(self.optimizer, self.model)
        return loss.item()


class Ours:
    """The trainer's pass, with its statistics."""

    def __init__(self, target, drafter) -> None:
        self.target = SplitModel(target)
        self.model = Distiller(drafter, DIVERGENCES["forward-kl"])
        self.optimizer = torch.optim.AdamW(drafter.parameters(), lr=1e-5)

    def step(self, tokens) -> float:
        counted = torch.ones(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.bool)
        weights = torch.full((counted.numel(),), 1 / counted.numel())
        side = self.target.read(tokens, counted)
        loss, measured = self.model(tokens, counted, weights, side)
        loss.backward()
        rows = [type("Row", (), {"num_bytes": 1.0})] * len(tokens)
        row_sums(measured, counted, rows)
        descend(self.optimizer, self.model)
        return loss.item()


class BareHead:
    """The same for a head: steps from every place, whole scores, EAGLE-3's weights of steps."""

    def __init__(self, target, head) -> None:
        self.target, self.head = target, head
        self.optimizer = torch.optim.AdamW(head.parameters(), lr=1e-5)

    def step(self, tokens) -> float:
        with torch.no_grad():
            read = self.target(input_ids=tokens, use_cache=False, output_hidden_states=True)
            layers = self.head.config.feature_layers
            features = torch.cat([read.hidden_states[layer] for layer in layers], -1)
            log_p = read.logits.log_softmax(-1)
        decay = [STEP_DECAY**k for k in range(STEPS)]
        places, loss = tokens.shape[0] * (tokens.shape[1] - 2), 0.0
        for k, states in enumerate(self.head(tokens, features, STEPS)):
            # A chain ends with the text, whose last token nobody has to predict a next one for.
            log_q = self.head.lm_head(states[:, :-1]).log_softmax(-1)
            of_step = log_p[:, 1 + k : -1]
            kl = functional.kl_div(log_q, of_step, log_target=True, reduction="sum")
            loss = loss + decay[k] / sum(decay) * kl / places
        loss.backward()
        descend(self.optimizer, self.head)
        return loss.item()


class OurHead:
    """The trainer's pass over a head, with its statistics."""

    def __init__(self, target, head) -> None:
        self.target = HeadTeacher(SplitModel(target), head.config.feature_layers, name="embedded")
        self.model = HeadDistiller(head, DIVERGENCES["forward-kl"], num_steps=STEPS)
        self.optimizer = torch.optim.AdamW(head.parameters(), lr=1e-5)

    def step(self, tokens) -> float:
        counted = torch.ones(tokens.shape[0], tokens.shape[1] - 1, dtype=torch.bool)
        counted[:, 0] = False  # a head needs two tokens before what it predicts
        weights = torch.full((int(counted.sum()),), 1 / int(counted.sum()))
        loss, measured = self.model(tokens, counted, weights, self.target.read(tokens, counted))
        loss.backward()
        rows = [type("Row", (), {"num_bytes": 1.0})] * len(tokens)
        row_sums(measured, counted, rows)
        descend(self.optimizer, self.model)
        return loss.item()


def head_speed(rounds: int) -> dict[str, object]:
    target = AutoModelForCausalLM.from_pretrained(EMBEDDED_TARGET, dtype=torch.float32).eval()
    target.requires_grad_(False)
    head = new_head(target, None, name="embedded", num_steps=STEPS, seed=0)
    other = copy.deepcopy(head)
    return turns({"bare": BareHead(target, head), "ours": OurHead(target, other)}, rounds)


def speed(rounds: int) -> dict[str, object]:
    target = AutoModelForCausalLM.from_pretrained(EMBEDDED_TARGET, dtype=torch.float32).eval()
    drafter = AutoModelForCausalLM.from_pretrained(EMBEDDED_DRAFTER, dtype=torch.float32)
    peers = {"bare": Bare}
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed, so its GKD trainer is left out: pip install trl")
    else:
        peers["trl_gkd"] = Gkd
    sides = {name: made(target, copy.deepcopy(drafter)) for name, made in peers.items()}
    sides["ours"] = Ours(target, drafter)
    return turns(sides, rounds)


def turns(sides, rounds: int) -> dict[str, object]:
    """Let all sides learn from the same batches; ratios of their times to ours, round by round."""
    peers = [name for name in sides if name != "ours"]
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        tokens = torch.randint(0, 8000, (ROWS, LENGTH), generator=generator)
        order = list(sides)[number % len(sides) :] + list(sides)[: number % len(sides)]
        losses = {}
        for name in order if number % 2 else reversed(order):
            wall, cpu = time.perf_counter(), time.process_time()
            losses[name] = sides[name].step(tokens)
            if number:  # the first is a warm-up
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        for loss in losses.values():
            assert abs(losses["bare"] - loss) < 1e-3 * losses["bare"], losses
    found: dict[str, object] = {"rounds": rounds, "tokens_per_step": ROWS * LENGTH}
    for name, times in seconds.items():
        found[f"{name}_cpu_seconds"] = statistics.median(cpu for _, cpu in times)
    for name in peers:
        for place, kind in ((1, "cpu"), (0, "wall")):
            pairs = zip(seconds[name], seconds["ours"], strict=True)
            ratios = [theirs[place] / ours[place] for theirs, ours in pairs]
            quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
            found[f"speed_over_{name}_{kind}"] = {
                "median": quartiles[1],
                "quartiles": [quartiles[0], quartiles[2]],
            }
    return found


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most.

    Linux's own count: getrusage's maximum is also that of the process which started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def peak(kind: str, positions: int) -> int:
    """Bytes at the peak beyond the inputs, of loss and gradients of this many positions."""
    torch.manual_seed(0)
    hidden = torch.randn(positions, WIDTH, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH).mul_(0.05).requires_grad_()
    theirs, head = torch.randn(positions, WIDTH), torch.randn(VOCAB, WIDTH).mul_(0.05)
    before = resident("VmRSS")
    if kind == "whole":
        with torch.no_grad():
            log_p = (theirs @ head.T).log_softmax(-1)
        log_q = (hidden @ weight.T).log_softmax(-1)
        loss = functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean()
    else:
        weights = torch.full((positions,), 1 / positions)
        side = LiveTarget(lambda states: states @ head.T, theirs)
        loss, _ = chunked_loss(hidden, weight, None, weights, side, DIVERGENCES["forward-kl"])
    loss.backward()
    return resident("VmHWM") - before


def memory(positions: int) -> dict[str, object]:
    found = {}
    for kind in ("whole", "chunked"):
        command = [sys.executable, __file__, "--peak", kind, "--memory-positions", str(positions)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[kind] = int(done.stdout)
    return {
        "vocabulary": VOCAB,
        "positions": positions,
        "whole_bytes": found["whole"],
        "chunked_bytes": found["chunked"],
        "memory_ratio": found["chunked"] / found["whole"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("speed", "head", "memory")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what is measured")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--memory-positions", type=int, default=1024)
    parser.add_argument("--peak", choices=["whole", "chunked"], help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="also write the figures here, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak(args.peak, args.memory_positions))
        return
    figures: dict[str, dict[str, object]] = {}
    if "speed" in args.parts:
        figures["speed"] = speed(args.rounds)
    if "head" in args.parts:
        figures["head"] = head_speed(args.rounds)
    if "memory" in args.parts:
        figures["memory"] = memory(args.memory_positions)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
