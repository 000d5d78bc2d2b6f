"""Models: the embedded ones, loading, tokenizer checks, digests of weights, hardware."""

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lm_eval_specfair.errors import ConfigError

EMBEDDED = Path(__file__).resolve().parents[1] / "embedded"
EMBEDDED_TARGET = EMBEDDED / "target"
EMBEDDED_DRAFTER = EMBEDDED / "drafter"
# Names that `drafter=` takes for models that come with the package.
EMBEDDED_DRAFTERS = {"embedded": EMBEDDED_DRAFTER, "embedded-fair": EMBEDDED / "drafter-fair"}


def shown_name(name: str) -> str:
    """A model's name for records and reports; of embedded models without the package's folder."""
    path = Path(name)
    return f"embedded/{path.name}" if path.parent == EMBEDDED else name


# Texts whose tokens differ as soon as merges, normalisation or pre-tokenisation do.
PROBES = (
    "The quick brown fox, 12345 times!\n\n\tdef f(x): return x",
    "Größe élève año İstanbul Việt",
    "Привет мир — це українська мова",
    "مرحبا بالعالم שלום नमस्ते বাংলা தமிழ்",
    "你好，世界。こんにちは 안녕하세요 ภาษาไทย ქართული 🙂",
)


def load_model(name: str, role: str, **arguments: Any) -> PreTrainedModel:
    """A causal LM from a folder or hub id, in evaluation mode; weights from safetensors only.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    if not arguments.get("gguf_file"):
        arguments.setdefault("use_safetensors", True)
    adapter = arguments.pop("peft", None)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, **arguments)
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise cannot_load(role, name, error) from error
    return model.eval()


def with_adapter_inside(model: Any, role: str) -> PreTrainedModel:
    """A model whose layers hold its adapter, where it came wrapped in one; else as it is.

    Raises:
        ConfigError: If the adapter is none of layers but a prompt that was learned.
    """
    adapters = getattr(model, "peft_config", None)
    if not adapters or not hasattr(model, "get_base_model"):
        return model
    if any(each.is_prompt_learning for each in adapters.values()):
        raise ConfigError(
            f"the {role}'s adapter is a learned prompt, whose keys are in no cache of ours; "
            "expected one that changes layers (LoRA and the like)"
        )
    return model.get_base_model()


def cannot_load(role: str, name: str, error: Exception) -> ConfigError:
    """One line for a model that does not load."""
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    return ConfigError(
        f"cannot load {role} {name!r}: expected a folder with config.json, *.safetensors and a "
        f"tokenizer, or a hub id that can be reached ({type(error).__name__}: {reason:.160})"
    )


def drafter_tokenizer(name: str, **arguments: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a drafter.

    Raises:
        ConfigError: If it has none.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **arguments)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"drafter {name!r} has no tokenizer that could be compared with the target's; put the "
            f"target's tokenizer files into its folder ({str(error).splitlines()[0]:.120})"
        ) from error
    return tokenizer


def tokenizer_difference(
    target: PreTrainedTokenizerBase, drafter: PreTrainedTokenizerBase
) -> str | None:
    """How a drafter's tokens, or their use for texts in several scripts, differ from the target's.

    None where they do not.
    """
    vocab, drafter_vocab = target.get_vocab(), drafter.get_vocab()
    if vocab != drafter_vocab:
        shared = sum(drafter_vocab.get(token) == number for token, number in vocab.items())
        return (
            f"has another tokenizer: {len(drafter_vocab)} tokens, of which {shared} are the "
            f"target's {len(vocab)}"
        )
    for text in PROBES:
        expected, got = (x.encode(text, add_special_tokens=False) for x in (target, drafter))
        if expected != got:
            return (
                f"has the target's tokens but splits text otherwise ({text[:20]!r} into "
                f"{len(got)} tokens, not {len(expected)})"
            )
    return None


def check_same_tokenizer(
    target: PreTrainedTokenizerBase, drafter_name: str, *, instead: str = "", **arguments: Any
) -> None:
    """Refuse a drafter whose tokenizer is not the target's; `instead` says what else to do.

    Raises:
        ConfigError: If they differ, or the drafter has no tokenizer to compare.
    """
    difference = tokenizer_difference(target, drafter_tokenizer(drafter_name, **arguments))
    if difference is not None:
        instead = instead or (
            "Pick a drafter of the target's family, or drafter=prompt_lookup, which needs none."
        )
        raise ConfigError(f"drafter {drafter_name!r} {difference}. {instead}")


def eos_token_ids(model: PreTrainedModel, also: Iterable[int]) -> frozenset[int]:
    """Tokens that end a text: these, and those of the model's generation settings."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(token for token in (*listed, *also) if token is not None)


def hardware(device: torch.device) -> dict[str, Any]:
    """The hardware of a run, for `run.json`."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    description: dict[str, Any] = {
        "machine": platform.machine(),
        "processor": named[0] if named else platform.processor(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description
