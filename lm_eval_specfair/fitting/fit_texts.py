"""Texts to fit a drafter on: whatever a replay or a training reads, as token ids with groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.assign import canonical_key, group_of
from lm_eval_specfair.groups.language_tags import standard_language
from lm_eval_specfair.groups.task_facts import facts_of_task
from lm_eval_specfair.replays.sources.document_share import DocumentShare
from lm_eval_specfair.replays.sources.replay_sources import holds_plain_texts, read_texts
from lm_eval_specfair.training.data.items import read_path


@dataclass(frozen=True, kw_only=True, slots=True)
class FitText:
    """A text.

    Attributes:
        prompt: Token ids; none of a plain text.
        answer: Token ids of what is learnt, with what ended it.
        groups: That it belongs to.
    """

    prompt: Sequence[int] = field(default_factory=list)
    answer: Sequence[int]
    groups: Sequence[str]


def read_fit_texts(
    source: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    group_by: str,
    documents: DocumentShare,
) -> list[FitText]:
    """The texts of one source, without those of other documents.

    Raises:
        ConfigError: If it cannot be read, or text comes without a tokenizer.
    """
    read = _plain if holds_plain_texts(source) else _answered
    return list(read(source, tokenizer, group_by, documents))


def _plain(
    source: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    group_by: str,
    documents: DocumentShare,
) -> Iterator[FitText]:
    if tokenizer is None:
        raise ConfigError("a source holds texts: name the target's tokenizer with --tokenizer")
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    is_language = canonical_key(group_by) == "language"
    for item in read_path(source):
        if not documents.has(item.item):
            continue
        text = item.response or item.prompt
        tokens = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        groups = [name for name, _ in item.membership]
        yield FitText(
            answer=[*tokens, *end],
            groups=[standard_language(name) for name in groups] if is_language else groups,
        )


def _answered(
    source: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    group_by: str,
    documents: DocumentShare,
) -> Iterator[FitText]:
    end = None if tokenizer is None else tokenizer.eos_token_id
    read = read_texts(source, tokenizer, max_length=1 << 30, eos_token_id=end)
    for text in read.texts:
        if documents.has(text.doc_id):
            facts = facts_of_task(read.run, text.task)
            yield FitText(
                prompt=text.prompt,
                answer=text.response,
                groups=[group_of(facts, text.group_fields, group_by)],
            )
