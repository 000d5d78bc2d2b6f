"""Models: the embedded ones, loading, tokenizer checks, digests of weights, hardware."""

import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.texts.piece_alphabets import PROBES

EMBEDDED = Path(__file__).resolve().parents[1] / "embedded"
EMBEDDED_TARGET = EMBEDDED / "target"
EMBEDDED_DRAFTER = EMBEDDED / "drafter"
# Names that `drafter=` takes for models that come with the package.
EMBEDDED_DRAFTERS = {"embedded": EMBEDDED_DRAFTER, "embedded-fair": EMBEDDED / "drafter-fair"}


def shown_name(name: str) -> str:
    """A model's name for records and reports; of embedded models without the package's folder."""
    path = Path(name)
    return f"embedded/{path.name}" if path.parent == EMBEDDED else name


def found_model(name: str, *, beside: str) -> str:
    """The model that a file names: an embedded one, a folder seen from here or there, a hub id."""
    if name in EMBEDDED_DRAFTERS:
        return str(EMBEDDED_DRAFTERS[name])
    there = Path(beside).parent / name
    return str(there) if not Path(name).exists() and there.is_dir() else name


# What transformers raises where a folder, its configuration or its weights are not in order.
MISREAD = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError,
    ArithmeticError, AssertionError, SafetensorError, StrictDataclassError,
)  # fmt: skip


class WeightsReader:
    """Reads a model's weights; stands for a class of transformers' `Auto...` where lm-eval reads.

    What it gives has all its weights from the files, and all that the files hold but heads for
    drafting: a tensor that is missing there, or of another shape, is refused, where transformers
    warns and takes random numbers; and so are files with more layers than the configuration.
    """

    def __init__(self, config: PretrainedConfig | None, role: str) -> None:
        """Of a configuration: a causal LM, or one with images whose text part is one."""
        kind = type(config)
        with_images = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        self._auto: Any = AutoModelForCausalLM
        self._role = role
        self.model_class: type | None = None
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
            self.model_class = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
        elif with_images:
            self._auto = AutoModelForImageTextToText
            self.model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind]

    def from_pretrained(self, name: str, *args: Any, **arguments: Any) -> PreTrainedModel:
        """The model.

        Raises:
            ConfigError: If it cannot be loaded, or is not whole.
        """
        # Tensors of other shapes are refused below, which transformers only tells its log.
        arguments["ignore_mismatched_sizes"] = True
        try:
            model, found = self._auto.from_pretrained(
                name, *args, output_loading_info=True, **arguments
            )
        except MISREAD as error:
            raise cannot_load(self._role, name, error) from error
        if fault := _other_shapes(found) or _surplus(model, found):
            raise ConfigError(f"{self._role} {name!r}: {fault}; mend config.json, or copy it anew")
        missing = sorted(found.get("missing_keys", ()))
        if missing and getattr(model, "hf_quantizer", None) is None:  # whose tensors are renamed
            raise ConfigError(
                f"{self._role} {name!r} lacks weights: {len(missing)} tensors of its configuration "
                f"are in no file ({', '.join(missing[:3])}, ...); copy it anew, or mend config.json"
            )
        is_placed = isinstance(arguments.get("device_map"), dict)  # by somebody who knows where
        if not is_placed and any(weight.is_meta for weight in model.parameters()):
            raise ConfigError(
                f"{self._role} {name!r}: some weights were left on disk, since no device has room "
                "for them; without a GPU leave out parallelize (and device_map)"
            )
        return model


def _other_shapes(found: Mapping[str, Any]) -> str:
    """Tensors whose shape in the file is not the configuration's, in words; else nothing."""
    wrong = sorted(found.get("mismatched_keys", ()))
    if not wrong:
        return ""
    name, of_file, expected = wrong[0]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return (
        f"its configuration expects {name} of shape {tuple(expected)}, got {tuple(of_file)} in its "
        f"file{more}"
    )


# Of layers beyond the model's own, what only those have that draft (multi-token prediction).
_DRAFTS = re.compile(r"\.(eh_proj|enorm|hnorm|shared_head|embed_tokens)\.|mtp|nextn|eagle|medusa")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _surplus(model: PreTrainedModel, found: Mapping[str, Any]) -> str:
    """Layers, or other numbered parts, that files hold beyond the configuration, in words."""
    unused = sorted(found.get("unexpected_keys", ()))
    if not unused:
        return ""
    config = model.config.get_text_config(decoder=True)
    names = ("num_nextn_predict_layers", "num_mtp_layers")
    num_drafting = max(int(getattr(config, name, None) or 0) for name in names)
    drafting = range(config.num_hidden_layers, config.num_hidden_layers + num_drafting)
    own = {_NUMBER.sub("#", name) for name in model.state_dict()}
    parts = {name: name[: number.end()] for name in unused if (number := _NUMBER.search(name))}
    heads = {part for name, part in parts.items() if _DRAFTS.search(name)}
    surplus = [
        name
        for name, part in parts.items()
        if _NUMBER.sub("#", name) in own and part not in heads
        if int(part.rpartition(".")[2]) not in drafting
    ]
    if not surplus:
        return ""
    return (
        f"its files hold {len(surplus)} tensors beyond its configuration ({surplus[0]}, ...), as "
        "where num_hidden_layers is too small"
    )


def load_model(name: str, role: str, **arguments: Any) -> PreTrainedModel:
    """A causal LM from a folder or hub id, in evaluation mode; weights from safetensors only.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    config = None
    if not arguments.get("gguf_file"):
        arguments.setdefault("use_safetensors", True)
        config = read_configuration(name, role, **arguments)
    adapter = arguments.pop("peft", None)
    model: Any = WeightsReader(config, role).from_pretrained(name, **arguments)
    if adapter:
        try:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        except MISREAD as error:
            raise cannot_load(role, name, error) from error
    loaded: PreTrainedModel = model.eval()
    return loaded


def read_configuration(name: str, role: str, **arguments: Any) -> PretrainedConfig:
    """A model's configuration, for which no weights are read.

    Raises:
        ConfigError: If there is none.
    """
    names = ("revision", "subfolder", "trust_remote_code", "cache_dir", "token", "local_files_only")
    given = {key: arguments[key] for key in names if arguments.get(key) is not None}
    try:
        return AutoConfig.from_pretrained(name, **given)
    except MISREAD as error:
        raise cannot_load(role, name, error) from error


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
    """One line for a model that does not load; the error itself where it already is one."""
    if isinstance(error, ConfigError):
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    if isinstance(error, SafetensorError):
        reason += "; a file of weights is damaged or cut short: copy it anew"
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
