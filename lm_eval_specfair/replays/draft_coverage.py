"""Draft-vocabulary coverage: the share of texts' tokens that a drafter can propose, by group.

No model is run: the target's tokens of the texts and the drafter's vocabulary are enough. A run's
folder keeps its other counts, so that coverage stands beside acceptance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.vocabularies.choice import foreign_vocabulary
from lm_eval_specfair.decoding.vocabularies.pruned_vocabulary import (
    pruned_vocabulary,
    vocabulary_tensors,
)
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.groups.user_file import UserGroups
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.summary import Summary, summarise
from lm_eval_specfair.records import Record
from lm_eval_specfair.replays.replay_models import resolved
from lm_eval_specfair.replays.sources.replay_sources import holds_plain_texts, read_texts
from lm_eval_specfair.reporting.runs import (
    RunReader,
    group_notes,
    group_sources,
    refuse_unknown_field,
)
from lm_eval_specfair.training.data.items import Item, read_path


@dataclass(frozen=True, slots=True)
class DraftVocabulary:
    """The target's tokens that a drafter can propose.

    Attributes:
        name: As it was named.
        kind: `head` (`d2t`, `t2d`) or `tokenizer`.
        ids: Of the target.
        target_size: Of the target's vocabulary; None where a file does not say.
    """

    name: str
    kind: str
    ids: frozenset[int]
    target_size: int | None


def draft_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase | None) -> DraftVocabulary:
    """Read the vocabulary of a head's safetensors file (or folder), or of a drafter's tokenizer.

    Raises:
        ConfigError: If there is none, or the tokenizer of the target is needed and missing.
    """
    path = Path(resolved(name))
    if path.suffix in (".bin", ".pt", ".pth"):
        raise ConfigError(
            f"--draft-vocabulary {name} is a pickle, which is not read; convert it to safetensors"
        )
    if path.is_file() or (path.is_dir() and vocabulary_tensors(path)):
        ids, size = pruned_vocabulary(path)
        return DraftVocabulary(name, "head", ids, size)
    if path.suffix == ".safetensors":
        raise ConfigError(f"--draft-vocabulary {name}: there is no such file")
    if path.is_dir() and not any(path.glob("tokenizer*")):
        raise ConfigError(
            f"--draft-vocabulary {name} has neither d2t nor t2d in its safetensors files, nor a "
            "tokenizer: a head without them drafts all of the target's tokens"
        )
    if tokenizer is None:
        raise ConfigError("a drafter's tokenizer is compared with the target's: name --tokenizer")
    own = loading.drafter_tokenizer(str(path) if path.is_dir() else name)
    sizes = len(tokenizer), len(own)
    if loading.tokenizer_difference(tokenizer, own) is None:
        return DraftVocabulary(name, "tokenizer", frozenset(range(sizes[0])), sizes[0])
    foreign = foreign_vocabulary(
        tokenizer, own, name, target_size=sizes[0], drafter_size=_drafter_size(path, sizes[1])
    )
    return DraftVocabulary(name, "tokenizer", foreign.shared.covered, sizes[0])


def _drafter_size(path: Path, fallback: int) -> int:
    """Tokens with a score; a folder may hold a tokenizer alone."""
    if not (path / "config.json").is_file():
        return fallback
    config = AutoConfig.from_pretrained(path).get_text_config(decoder=True)
    return int(getattr(config, "vocab_size", fallback))


def coverage(
    sources: Sequence[Path],
    vocabulary: str,
    *,
    tokenizer: str | None = None,
    group_by: str = "language",
    mapping: UserGroups | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> Summary:
    """The share of the texts' tokens that a drafter can propose, by group.

    Args:
        sources: Runs' folders, lm-eval's samples, folders of `<group>.txt`, JSON Lines with `text`
            or `prompt` and `response`, and a group.
        vocabulary: A head's safetensors file or folder, or a drafter with a tokenizer.
        tokenizer: Of the target; needed where sources hold text, or `vocabulary` is a drafter.
        group_by: As in a report.
        mapping: The same.
        min_requests: The same.

    Raises:
        ConfigError: If a source or the vocabulary cannot be read, or they do not go together.
    """
    loaded = None if tokenizer is None else _load_tokenizer(tokenizer)
    drafts = draft_vocabulary(vocabulary, loaded)
    aggregator = Aggregator(group_by, mapping)
    for source in sources:
        for record, facts in _records(source, loaded):
            tokens = record.generated_token_ids or []
            largest = max(tokens, default=0)
            if drafts.target_size is not None and largest >= drafts.target_size:
                raise ConfigError(
                    f"{source}: token id {largest} is none of the {drafts.target_size} that "
                    f"{vocabulary} was made for: the texts have another target's tokens"
                )
            covered = sum(token in drafts.ids for token in tokens)
            aggregator.add(
                structs.replace(record, num_covered_tokens=covered), facts, run=str(source)
            )
    refuse_unknown_field(aggregator, group_by)
    info: dict[str, Any] = {
        "folders": [source.name for source in sources],
        "draft_vocabulary": {
            "name": loading.shown_name(resolved(vocabulary)),
            "kind": drafts.kind,
            "num_tokens": len(drafts.ids),
            "target_vocabulary": drafts.target_size,
        },
        "group_sources": group_sources(aggregator),
    }
    return summarise(
        aggregator,
        info,
        notes=[_size_note(drafts), *group_notes(aggregator)],
        min_requests=min_requests,
    )


def _size_note(drafts: DraftVocabulary) -> str:
    size = drafts.target_size
    of = "" if size is None else f" of the target's {size:,} ({len(drafts.ids) / size:.1%})"
    return (
        f"The drafter can propose {len(drafts.ids):,} tokens{of}. Coverage counts the "
        "texts' tokens and bounds this drafter's acceptance from above; acceptance that is shown "
        "beside it is of the run's own drafter."
    )


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    path = str(loading.EMBEDDED_TARGET) if name == "embedded" else resolved(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise loading.cannot_load("tokenizer", name, error) from error
    return tokenizer


def _records(
    source: Path, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[tuple[Record, TaskFacts]]:
    if (source / "run.json").is_file():
        found = False
        for record, facts in RunReader(source).records():
            if record.generated_token_ids:
                found = True
                yield record, facts
        if not found:
            raise ConfigError(f"{source} holds no generated text")
    elif holds_plain_texts(source):
        for number, item in enumerate(read_path(source)):
            yield _of_item(item, number, source, tokenizer)
    else:
        for text in read_texts(source, tokenizer, max_length=1 << 30, eos_token_id=None).texts:
            record = _record(text.request_id, text.task, text.doc_id, text.response, text.text)
            record = structs.replace(record, group_fields=text.group_fields)
            yield record, TaskFacts(text.task)


def _of_item(
    item: Item, number: int, source: Path, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Record, TaskFacts]:
    if tokenizer is None:
        raise ConfigError("a source holds texts: name the target's tokenizer with --tokenizer")
    groups = [name for name, _ in item.membership]
    task = f"{source.stem}_{'_'.join(groups)}"
    text = item.response or item.prompt
    tokens = tokenizer.encode(text, add_special_tokens=False)
    own = item.item.removeprefix("#")
    doc_id = int(own) if own.isdecimal() else number
    record = _record(f"{task}/{item.item}/{number}", task, doc_id, tokens, text)
    fields = {"language": groups[0] if len(groups) == 1 else groups}
    return structs.replace(record, group_fields=fields), TaskFacts(task)


def _record(request_id: str, task: str, doc_id: int, tokens: list[int], text: str) -> Record:
    return Record(
        request_id=request_id,
        task=task,
        doc_id=doc_id,
        request_type="generate_until",
        group_fields={},
        num_prompt_tokens=0,
        num_generated_tokens=len(tokens),
        num_generated_bytes=len(text.encode("utf-8", errors="replace")),
        num_generated_chars=len(text),
        generated_token_ids=tokens,
    )
