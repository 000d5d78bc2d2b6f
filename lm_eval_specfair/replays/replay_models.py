"""The models of a replay: loaded, and checked against the texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName
from lm_eval_specfair.decoding.heads.head_folder import found_head
from lm_eval_specfair.decoding.vocabularies.draft_vocabulary_file import cut_to_draft_vocabulary
from lm_eval_specfair.decoding.weight_digests import weights_digest
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import RUN_FILE, read_run
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass, TextReader
from lm_eval_specfair.training.model_setup import loading_arguments

_DTYPES, _QUANTIZED = ("float32", "float16", "bfloat16", "float64"), ("int8", "int4")


def resolved(name: str) -> str:
    """Folder or hub id of a name; the embedded models have names of their own."""
    if name == "embedded-target":
        return str(loading.EMBEDDED_TARGET)
    return str(loading.EMBEDDED_DRAFTERS.get(name, name))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedPair:
    """A drafter, and the target if there is one, as `run.json` names them."""

    drafter: str
    drafter_weights: str | None
    target: str | None = None
    target_weights: str | None = None


def split_drafter(name: str) -> tuple[str, str | None]:
    """`NAME@KIND` as a name and the kind of its weights: a dtype, or one of torchao's."""
    base, _, kind = name.rpartition("@")
    if not base or Path(name).exists():
        return name, None
    if kind not in (*_DTYPES, *_QUANTIZED):
        raise ConfigError(
            f"--drafter {name}: after @ expected one of {', '.join((*_DTYPES, *_QUANTIZED))}, got "
            f"{kind!r:.40}"
        )
    return base, kind


def named_drafter(name: str) -> DrafterName:
    """A drafter's name in its parts, without the kind of its weights.

    Raises:
        ConfigError: If it is none.
    """
    return DrafterName.read(split_drafter(name)[0])


def model_of(name: str) -> str | None:
    """What loads a drafter's model: its folder or hub id, and `@KIND`; None where it has none."""
    base, kind = split_drafter(name)
    path = DrafterName.read(base).model
    return path if path is None or kind is None else f"{path}@{kind}"


def load(name: str, role: str, device: str, dtype: str) -> PreTrainedModel:
    """A model on its device, in float32 on a CPU where no type is asked for."""
    base, kind = split_drafter(name) if role == "drafter" else (name, None)
    path = str(loading.EMBEDDED_TARGET) if role == "target" and name == "embedded" else base
    arguments = loading_arguments(kind, None) if kind in _QUANTIZED else {}
    if kind in _DTYPES:
        dtype = str(kind)
    model = loading.load_model(resolved(path), role, dtype=dtype, **arguments)
    if dtype == "auto" and device == "cpu" and not arguments:
        model = model.float()  # half types are slow on a CPU and round differently
    if role == "drafter":
        model = cut_to_draft_vocabulary(model, resolved(path))
    return model.to(device)


def pair_of(
    drafter: str,
    model: nn.Module | None,
    *,
    target: str | None,
    target_weights: str | None,
) -> ReplayedPair:
    """What `run.json` says of a drafter, whose model was loaded if it has one, and of a target."""
    kind = split_drafter(drafter)[1]
    named = named_drafter(drafter)
    weights = None if model is None else weights_digest(named.model, model)
    return ReplayedPair(
        drafter=f"{named.shown}{f'@{kind}' if kind else ''}",
        drafter_weights=named.weights(f"{weights}@{kind}" if weights and kind else weights),
        target=target,
        target_weights=target_weights,
    )


def target_of_runs(sources: Sequence[Path]) -> str | None:
    """The folder of the target that the first run among the sources was decoded with, if known."""
    for source in sources:
        if not (source / RUN_FILE).is_file():
            continue
        settings = read_run(source).get("settings")
        name = str(settings.get("target")) if isinstance(settings, dict) else ""
        path = loading.EMBEDDED_TARGET if name == "embedded/target" else Path(name)
        return str(path) if name and any(path.glob("tokenizer*")) else None
    return None


def load_tokenizer(
    name: str | None, target: str | None, drafters: Sequence[str]
) -> PreTrainedTokenizerBase | None:
    """The named tokenizer, else the target's, else the first drafter's, if any is a model."""
    if name is None and target is not None:
        name = str(loading.EMBEDDED_TARGET) if target == "embedded" else target
    if name is None:
        models = (named_drafter(drafter).model for drafter in drafters)
        name = next((each for each in models if each and found_head(resolved(each)) is None), None)
    if name is None:
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolved(name))
    except (OSError, ValueError, KeyError) as error:
        raise loading.cannot_load("tokenizer", name, error) from error
    return tokenizer


def refuse_other_vocabulary(
    texts: Sequence[KnownText], drafters: Mapping[str, OnePass], target: TextReader | None
) -> None:
    """Ids that a model cannot have emitted or read come from another tokenizer."""
    largest = max(max(*text.prompt, *text.response) for text in texts)
    if target is not None and largest >= target.vocab_size:
        raise ConfigError(
            f"token id {largest} is none of the target's {target.vocab_size}: the texts were made "
            "with another tokenizer"
        )
    for name, drafter in drafters.items():
        # Vocabularies of one tokenizer are padded differently, by some hundreds at most.
        if largest >= drafter.vocab_size + 1024:
            raise ConfigError(
                f"token id {largest} is beyond the {drafter.vocab_size} of drafter {name}: it "
                "has another tokenizer than the texts"
            )
