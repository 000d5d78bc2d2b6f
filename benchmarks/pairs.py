"""The pairs that benchmarks decode with, the prompts, and both sides' way to load them."""

import copy
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.drafters import Drafter, ModelDrafter, NoDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.stopping import Stopping

DOCUMENTS = ROOT / "task_configs" / "specfair_demo" / "documents"
PAIRS = ("embedded", "small", "random", "large")
SMALL_LAYERS = 8


@dataclass(frozen=True)
class Pair:
    """Folders of a target and a drafter, and where and how they compute."""

    name: str
    target: Path
    drafter: Path
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def models(self):
        """Both, newly loaded: each side of a comparison gets its own."""
        found = []
        for folder in (self.target, self.drafter):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype)
            model = model.to(self.device).eval()
            # All texts run to their full length, on all sides.
            model.generation_config.eos_token_id = model.config.eos_token_id = None
            model.generation_config.pad_token_id = model.config.pad_token_id = 0
            found.append(model)
        return found

    def described(self) -> str:
        sizes = [sum(weight.numel() for weight in model.parameters()) for model in self.models()]
        return f"{self.name} ({sizes[0] / 1e6:.1f} M, {sizes[1] / 1e6:.1f} M)"


def pair(
    name: str, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Pair:
    """One of `PAIRS`; all but the embedded one are made in this folder.

    `small` is of the size that the aims for an embedded pair were set for (7 M parameters in 8
    layers): the embedded target's first layers, with the embedded drafter, which agrees with it
    about as often as with the whole. `random` has 27 M and 0.7 M parameters of random weights.
    `large` has 3.0 B and 0.6 B, for a GPU: a random target whose first layers are the drafter.
    """
    if name == "embedded":
        return Pair(name, EMBEDDED_TARGET, EMBEDDED_DRAFTER, device, dtype)
    if name == "large":
        shape = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28}
        config = random_config(shape, (24, 8), head_dim=128, vocab_size=32_768, tied=False)
        torch.manual_seed(0)
        with torch.device(device):
            target = LlamaForCausalLM(config)
        first_layers(target.to(dtype), 4, folder)
        return Pair(name, folder / "target", folder / "drafter", device, dtype)
    if name == "small":
        layers = {"num_hidden_layers": SMALL_LAYERS}
        model = AutoModelForCausalLM.from_pretrained(EMBEDDED_TARGET, **layers)
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(EMBEDDED_TARGET).save_pretrained(folder / name)
        return Pair(name, folder / name, EMBEDDED_DRAFTER, device, dtype)
    shapes = {
        "target": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8},
        "drafter": {"hidden_size": 80, "intermediate_size": 224, "num_hidden_layers": 1},
    }
    heads = {"target": (16, 4), "drafter": (4, 2)}
    for role, shape in shapes.items():
        torch.manual_seed(0)
        model = LlamaForCausalLM(random_config(shape, heads[role], head_dim=32, vocab_size=8192))
        model.save_pretrained(folder / role)
        AutoTokenizer.from_pretrained(EMBEDDED_TARGET).save_pretrained(folder / role)
    return Pair(name, folder / "target", folder / "drafter", device, dtype)


def random_config(
    shape: dict[str, int],
    heads: tuple[int, int],
    *,
    head_dim: int,
    vocab_size: int,
    tied: bool = True,
) -> LlamaConfig:
    """A Llama's configuration; heads of queries, and of keys and values."""
    return LlamaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=1024,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=head_dim,
        tie_word_embeddings=tied,
        **shape,
    )


LATER = 0.1  # of what later layers add: drafts are kept often, but not always


def first_layers(target: LlamaForCausalLM, number: int, folder: Path) -> None:
    """Save a random target whose first layers are its own drafter.

    What later layers add is scaled down; the passes cost what those of any pair of this shape cost,
    and everybody decodes the same two models. A head of its own keeps the target from repeating
    its last token, as random models with tied embeddings do.
    """
    with torch.no_grad():
        for layer in target.model.layers[number:]:
            layer.self_attn.o_proj.weight *= LATER
            layer.mlp.down_proj.weight *= LATER
    target.save_pretrained(folder / "target")
    drafter = LlamaForCausalLM.from_pretrained(
        folder / "target", num_hidden_layers=number, dtype=target.dtype
    )
    drafter.save_pretrained(folder / "drafter")
    for role in ("target", "drafter"):
        AutoTokenizer.from_pretrained(EMBEDDED_TARGET).save_pretrained(folder / role)


def own_pair(folders: Sequence[Path], *, device: str, dtype: torch.dtype) -> Pair:
    """A target and a drafter of one's own, by their folders."""
    target, drafter = folders
    return Pair(target.name, target, drafter, device, dtype)


def prompts(number: int, tokenizer_folder: Path = EMBEDDED_TARGET) -> list[list[int]]:
    """Token ids of the demo suite's prompts, one of each language in turn."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    lines = [path.read_text("utf-8").splitlines() for path in sorted(DOCUMENTS.glob("*.jsonl"))]
    texts = [json.loads(each)["prompt"] for row in zip(*lines, strict=True) for each in row]
    return [tokenizer(text)["input_ids"] for text in texts[:number]]


class Ours:
    """Our engine on copies of its own."""

    def __init__(self, pair: Pair, settings: DecodeConfig, *, drafts: bool = True) -> None:
        target, drafter = pair.models()
        self.target = CausalModel(target)
        self.engine = Engine(self.target, settings)
        self.drafter: Drafter = NoDrafter(self.target.device)
        if drafts:
            wrapped = CausalModel(drafter, role="drafter")
            self.drafter = ModelDrafter(wrapped, vocab_size=self.target.vocab_size)

    def decode(
        self, texts: list[list[int]], lengths: int | Iterable[int], batch_size: int
    ) -> list[Completion]:
        limits = [lengths] * len(texts) if isinstance(lengths, int) else list(lengths)
        requests = [
            Request(request_id=str(n), prompt=text, stopping=Stopping(max_new_tokens=limit))
            for n, (text, limit) in enumerate(zip(texts, limits, strict=True))
        ]
        return list(self.engine.decode(requests, self.drafter, batch_size=batch_size))


def generate(model, texts: list[list[int]], length: int, drafter=None, **settings) -> int:
    """`model.generate` on prompts padded on the left; tokens that came out."""
    width = max(len(text) for text in texts)
    ids = [[0] * (width - len(text)) + text for text in texts]
    seen = [[0] * (width - len(text)) + [1] * len(text) for text in texts]
    options = copy.deepcopy(model.generation_config)
    options.update(max_new_tokens=length, max_length=None, **settings)
    found = model.generate(
        torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(seen, device=model.device),
        generation_config=options,
        assistant_model=drafter,
    )
    return (found.shape[1] - width) * len(texts)


def read_weights(model) -> int:
    """Bytes of weights that a pass over one token reads: no embedding that is not the head too."""
    total = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    looked_up, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return total - (0 if head is looked_up else looked_up.numel() * looked_up.element_size())


def read_bandwidth(device: str, *, size: int = 1 << 28, times: int = 5) -> float:
    """Bytes a second of a matrix of 1 GB that is multiplied by a vector; the best of some times."""
    matrix = torch.ones(size >> 12, 1 << 12, device=device)
    vector = torch.ones(1 << 12, device=device)
    fastest = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        torch.mv(matrix, vector)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 4 * size / fastest
