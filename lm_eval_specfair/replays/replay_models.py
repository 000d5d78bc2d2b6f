"""The models of a replay: loaded, and checked against the texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import RUN_FILE, read_run
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.one_pass import OnePass
from lm_eval_specfair.replays.quick_products import quicken

LOOKUP = "prompt_lookup"


def resolved(name: str) -> str:
    """Folder or hub id of a name; the embedded models have names of their own."""
    if name == "embedded-target":
        return str(loading.EMBEDDED_TARGET)
    return str(loading.EMBEDDED_DRAFTERS.get(name, name))


def load(name: str, role: str, device: str, dtype: str) -> PreTrainedModel:
    """A model on its device, in float32 on a CPU where no type is asked for."""
    path = str(loading.EMBEDDED_TARGET) if role == "target" and name == "embedded" else name
    model = loading.load_model(resolved(path), role, dtype=dtype)
    if dtype == "auto" and device == "cpu":
        model = model.float()  # half types are slow on a CPU and round differently
    return quicken(model.to(device))


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
    """The named tokenizer, else the target's, else the first drafter's; None for lookup alone."""
    if name is None and target is not None:
        name = str(loading.EMBEDDED_TARGET) if target == "embedded" else target
    if name is None:
        name = next((drafter for drafter in drafters if drafter != LOOKUP), None)
    if name is None:
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolved(name))
    except (OSError, ValueError, KeyError) as error:
        raise loading.cannot_load("tokenizer", name, error) from error
    return tokenizer


def refuse_other_vocabulary(
    texts: Sequence[KnownText], drafters: Mapping[str, OnePass], target: OnePass | None
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
