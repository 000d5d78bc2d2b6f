"""Train one model of the embedded pair; a drafter may learn from a teacher's distribution.

    python experiments/embedded_pair/pretrain.py --work build/pair --model base --tokens 16000000
    python experiments/embedded_pair/pretrain.py --work build/pair --model target --tokens 3500000 \
        --start build/pair/base --rate 0.5
    python experiments/embedded_pair/pretrain.py --work build/pair --model drafter \
        --tokens 1500000 --teacher build/pair/target

The target is the base grown to three times its depth: new layers start as copies that add nothing,
so training goes on from the base's loss, at a fraction of what a deep model costs from noise.

Checkpoints every few minutes into `WORK/<model>.checkpoint` and goes on from there when started
again; the finished model is an ordinary Hugging Face folder, `WORK/<model>`. bf16 autocast on a
CPU with AVX512-BF16 (or a GPU); Muon for the hidden matrices, AdamW for the rest; the learning
rate warms up, stays, and falls over the last quarter; sequences are 256 tokens long and grow to
1,024 towards the end, since attention over long ones is what costs a CPU most.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from languages import LANGUAGES
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

LAYERS = {"base": 8, "target": 24, "drafter": 1}
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
BLOCK = 1024
# Texts of a language are joined up to this many characters, so that a text's end is rare: models
# that learnt from single lines end their own texts after a few tokens.
DOCUMENT_CHARS = 6000
BATCH_TOKENS = 8192
SHORT = 256
DECAY_SHARE = 0.25
LONG_SHARE = 0.15
WARMUP_STEPS = 60
MUON_RATE, ADAM_RATE = 0.02, 3e-3
CHECKPOINT_SECONDS = 240


def documents(path: Path) -> Iterator[str]:
    """A language's texts, joined line by line into long ones."""
    parts: list[str] = []
    for line in path.open(encoding="utf-8"):
        parts.append(json.loads(line)["text"])
        if sum(map(len, parts)) >= DOCUMENT_CHARS:
            yield "\n".join(parts)
            parts = []
    if parts:
        yield "\n".join(parts)


def token_blocks(work: Path, only: list[str] | None) -> np.ndarray:
    """The mixture as token blocks of 1,024, in a fixed random order; shape (blocks, 1024)."""
    cached = work / f"blocks{'-'.join(['', *(only or [])])}.npy"
    if cached.exists():
        return np.load(cached)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    stream: list[np.ndarray] = []
    for language in LANGUAGES:
        if only and language.code not in only:
            continue
        path = work / "corpus/train" / f"{language.code}.jsonl"
        ids = tokenizer(list(documents(path)), verbose=False)["input_ids"]
        flat = [token for row in ids for token in (tokenizer.eos_token_id, *row)]
        stream.extend([np.asarray(flat, dtype=np.uint16)] * language.epochs)
    tokens = np.concatenate(stream)
    blocks = tokens[: len(tokens) // BLOCK * BLOCK].reshape(-1, BLOCK)
    blocks = blocks[np.random.default_rng(0).permutation(len(blocks))]
    np.save(cached, blocks)
    return blocks


def batches(blocks: np.ndarray, first: int, steps: int) -> Iterator[torch.Tensor]:
    """Batches of 8,192 tokens; the pool is shuffled anew when it is used up."""
    rows = BATCH_TOKENS // BLOCK
    per_epoch = len(blocks) // rows
    for step in range(first, steps):
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng(epoch).permutation(len(blocks))
        chosen = blocks[order[place * rows : (place + 1) * rows]].astype(np.int64)
        long = step >= steps * (1 - LONG_SHARE)
        yield torch.from_numpy(chosen.reshape(-1, BLOCK if long else SHORT))


def rate(step: int, steps: int) -> float:
    """Learning-rate factor: warm-up, plateau, square-root fall over the last quarter."""
    left = (steps - step) / (steps * DECAY_SHARE)
    return min(1.0, (step + 1) / WARMUP_STEPS, math.sqrt(max(left, 0.0)))


def grown(weights: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """Weights of a model `times` as deep that computes the same.

    Behind each layer come copies of it whose two output matrices are 0: they add nothing yet, and
    training moves them from there.
    """
    deep = {}
    for name, value in weights.items():
        place = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if place is None:
            deep[name] = value
            continue
        first, rest = int(place[1]) * times, place[2]
        deep[f"model.layers.{first}.{rest}"] = value
        for offset in range(1, times):
            adds = rest in ("self_attn.o_proj.weight", "mlp.down_proj.weight")
            copy = torch.zeros_like(value) if adds else value.clone()
            deep[f"model.layers.{first + offset}.{rest}"] = copy
    return deep


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    adam = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    muon = torch.optim.Muon(hidden, lr=MUON_RATE, weight_decay=0.01)
    for group in (*muon.param_groups, *adam.param_groups):
        group["base_lr"] = group["lr"]
    return [muon, adam]


def save_checkpoint(folder: Path, model, optims, step: int) -> None:
    """Write weights and optimizer state as safetensors, then switch folders in one rename."""
    fresh = folder.with_suffix(".writing")
    fresh.mkdir(exist_ok=True)
    tensors = {
        f"model.{k}": v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"
    }
    for number, optim in enumerate(optims):
        for index, state in optim.state_dict()["state"].items():
            tensors |= {f"optim{number}.{index}.{k}": v.clone() for k, v in state.items()}
    save_file(tensors, fresh / "state.safetensors")
    (fresh / "step.json").write_text(json.dumps({"step": step}))
    old = folder.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    for path in old.glob("*") if old.exists() else []:
        path.unlink()
    if old.exists():
        old.rmdir()


def load_checkpoint(folder: Path, model, optims) -> int:
    if not folder.exists():
        return 0
    tensors = load_file(folder / "state.safetensors")
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    for number, optim in enumerate(optims):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optim{number}."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        optim.load_state_dict({**optim.state_dict(), "state": state})
    return json.loads((folder / "step.json").read_text())["step"]


@torch.compile(dynamic=False)
def losses(model, teacher, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is minimised, and the cross-entropy on the text (nats per token, for the log)."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    text = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    if teacher is None:
        return text, text.detach()
    with torch.no_grad():
        wanted = teacher(input_ids=ids, use_cache=False).logits[:, :-1].float().softmax(-1)
    distilled = -(wanted * logits.log_softmax(-1)).sum(-1).mean()
    return distilled, text.detach()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that tokenizer.py filled")
    parser.add_argument("--model", choices=sorted(LAYERS), required=True)
    parser.add_argument("--tokens", type=int, required=True, help="length of the run in tokens")
    parser.add_argument(
        "--teacher",
        type=Path,
        help="start from this model's first layer and learn from its distribution",
    )
    parser.add_argument(
        "--start", type=Path, help="go on from this model, grown if it is shallower"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="factor of all learning rates")
    parser.add_argument("--only", nargs="+", metavar="LANGUAGE", help="train on these languages")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stop-after", type=int, help="stop at this step (for timing)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    tokenizer = AutoTokenizer.from_pretrained(args.work / "tokenizer")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        head_dim=32,
        max_position_embeddings=BLOCK,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        num_hidden_layers=LAYERS[args.model],
        **SHAPE,
    )
    model = LlamaForCausalLM(config).float().to(device)
    teacher = None
    if args.teacher:
        teacher = AutoModelForCausalLM.from_pretrained(args.teacher).to(device)
        # The teacher's embedding, first layer and head are a far better start than noise. What the
        # drafter lacks are the layers above, hence `strict=False`.
        model.load_state_dict(teacher.state_dict(), strict=False)
    if args.start:
        started = AutoModelForCausalLM.from_pretrained(args.start)
        times = LAYERS[args.model] // started.config.num_hidden_layers
        model.load_state_dict(grown(started.state_dict(), times))
    optims = optimizers(model)
    checkpoint = args.work / f"{args.model}.checkpoint"
    steps = args.tokens // BATCH_TOKENS
    first = load_checkpoint(checkpoint, model, optims)
    blocks = token_blocks(args.work, args.only)

    saved, log = time.monotonic(), (args.work / f"{args.model}.log.jsonl").open("a")
    progress = tqdm(batches(blocks, first, steps), total=steps, initial=first, mininterval=10)
    step = first
    for ids in progress:
        began = time.monotonic()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss, text = losses(model, teacher, ids.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = group["base_lr"] * args.rate * rate(step, steps)
            optim.step()
            optim.zero_grad()
        step += 1
        seconds = time.monotonic() - began
        row = {"step": step, "loss": loss.item(), "text": text.item(), "seconds": seconds}
        log.write(json.dumps(row) + "\n")
        log.flush()
        progress.set_postfix(loss=f"{loss.item():.3f}", text=f"{text.item():.3f}")
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, model, optims, step)
            saved = time.monotonic()
        if step == args.stop_after:
            return
    save_checkpoint(checkpoint, model, optims, step)
    # Weights are kept as bf16 on disk and computed in fp32: half the size, one exact value.
    model.to(torch.bfloat16).save_pretrained(args.work / args.model)
    path = args.work / args.model / "config.json"
    settings = json.loads(path.read_text())
    settings["dtype"] = "float32"
    path.write_text(json.dumps(settings, indent=2) + "\n")
    tokenizer.save_pretrained(args.work / args.model)
    for file in (args.work / args.model).iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    main()
