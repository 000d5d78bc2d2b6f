"""The folder of a fitted drafter: `fitted.json` says what it is, `fitted.safetensors` holds it."""

import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.decoding.fitted.ngram_counts import PAD, NgramCounts
from lm_eval_specfair.decoding.fitted.ngram_model import NgramModel
from lm_eval_specfair.decoding.fitted.suffix_lookup import TextStore
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import staged
from lm_eval_specfair.records.texts.piece_alphabets import PROBES

ABOUT, TENSORS = "fitted.json", "fitted.safetensors"
Kind = Literal["ngram", "lookup"]
_PROMPTS = "prompts"

Tensors = Mapping[str, NDArray[Any]]


class AboutFit(msgspec.Struct, frozen=True, kw_only=True):
    """What a drafter was fitted on, as `fitted.json` says it.

    Attributes:
        kind: `ngram`, or `lookup` for a store of texts.
        vocab_size: Token ids are below this.
        num_texts: Texts that it was fitted on.
        num_tokens: Their learnt tokens.
        learnt: `answers`, or `texts` with their prompts.
        sources: Where the texts came from.
        documents: Which documents of these.
        tokenizer: Digest; None where it was not known.
        group_by: What made a group.
        group: Whose texts these are; None for all.
        order: Length of the longest n-grams.
        discounts: Of n-grams, by length.
    """

    schema_version: Literal[1] = 1
    kind: Kind
    vocab_size: int
    num_texts: int
    num_tokens: int
    learnt: Literal["answers", "texts"]
    sources: list[str]
    documents: str = "all"
    tokenizer: str | None = None
    group_by: str | None = None
    group: str | None = None
    order: int | None = None
    discounts: list[float] | None = None


class FittedDrafter:
    """A fitted drafter as it was read.

    Attributes:
        about: What it was fitted on.
        model: The n-grams, or the store.
        prompts: Digests of its texts' prompts (`prompt_digest`).
    """

    def __init__(self, about: AboutFit, model: NgramModel | TextStore, prompts: set[int]) -> None:
        self.about, self.model, self.prompts = about, model, prompts


def is_fitted(name: str) -> bool:
    """Whether a drafter's name is the folder of a fitted one."""
    return bool(name) and (Path(name) / ABOUT).is_file()


def prompt_digest(prompt: Sequence[int]) -> int:
    """A number of 63 bits for a prompt's token ids."""
    digest = hashlib.sha256(np.array(prompt, dtype="<i8").tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """An identity of a tokenizer: of its tokens, and of its use for texts in several scripts."""
    used = [tokenizer.encode(text, add_special_tokens=False) for text in PROBES]
    said = json.dumps([sorted(tokenizer.get_vocab().items()), used])
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


def write_fitted(
    folder: Path, about: AboutFit, tensors: Tensors, prompts: Sequence[Sequence[int]]
) -> None:
    """Write a drafter's two files; `tensors` are those of `ngram_tensors` or `store_tensors`.

    Raises:
        OSError: If they cannot be written.
    """
    digests = np.array(sorted({prompt_digest(prompt) for prompt in prompts}), dtype=np.int64)
    with staged(folder, last=ABOUT) as fresh:
        (fresh / TENSORS).write_bytes(save({**tensors, _PROMPTS: digests}))
        text = msgspec.json.format(msgspec.json.encode(about), indent=2).decode()
        (fresh / ABOUT).write_text(text + "\n", encoding="utf-8")


def ngram_tensors(counts: NgramCounts) -> dict[str, NDArray[Any]]:
    """Counted n-grams as tensors."""
    return {
        f"{name}.{level}": np.ascontiguousarray(array)
        for name in ("tokens", "begins", "counts")
        for level, array in enumerate(getattr(counts, name), 1)
    }


def store_tensors(texts: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
    """Texts of token ids as tensors: all tokens, and where each text begins and the last ends."""
    return {
        "tokens": np.array([token for text in texts for token in text], dtype=np.int32),
        "begins": np.cumsum([0, *map(len, texts)], dtype=np.int64),
    }


def read_fitted(name: str) -> FittedDrafter:
    """Read a fitted drafter; the same folder is read once.

    Raises:
        ConfigError: If its files are not those of one.
    """
    folder = Path(name)
    try:
        changed = max((folder / file).stat().st_mtime_ns for file in (ABOUT, TENSORS))
    except OSError as error:
        raise _unreadable(folder, str(error.strerror)) from None
    return _read(str(folder.resolve()), changed)


@functools.lru_cache(maxsize=128)
def _read(name: str, _changed: int) -> FittedDrafter:
    folder = Path(name)
    try:
        about = msgspec.json.decode((folder / ABOUT).read_bytes(), type=AboutFit)
        tensors = load_file(folder / TENSORS)
        prompts = set(tensors.pop(_PROMPTS).tolist())
        model: NgramModel | TextStore
        if about.kind == "ngram":
            model = NgramModel(_ngrams(tensors, about), about.vocab_size, about.discounts)
        else:
            model = TextStore(_texts(tensors, about))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unreadable(folder, str(error).splitlines()[0]) from None
    return FittedDrafter(about, model, prompts)


def _unreadable(folder: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{folder} is no fitted drafter: expected {ABOUT} and {TENSORS} as `specfair fit` writes "
        f"them ({reason:.160}); fit it again"
    )


def _ngrams(tensors: Tensors, about: AboutFit) -> NgramCounts:
    order, discounts = about.order or 0, about.discounts or []
    if order < 1 or len(discounts) != order or not all(0 <= each <= 1 for each in discounts):
        raise ValueError("order and discounts do not fit")
    levels = range(1, order + 1)
    tokens, begins, counts = (
        [tensors[f"{name}.{level}"] for level in levels] for name in ("tokens", "begins", "counts")
    )
    found = NgramCounts(tokens, begins, counts)
    parents = 1
    for ids, starts, numbers in zip(tokens, begins, counts, strict=True):
        if not (
            ids.ndim == starts.ndim == numbers.ndim == 1
            and len(ids) == len(numbers)
            and len(starts) == parents + 1
            and starts[0] == 0
            and starts[-1] == len(ids)
            and (np.diff(starts) >= 0).all()
            and (numbers >= 0).all()
            and ((ids >= PAD) & (ids < about.vocab_size)).all()
            and (numbers[ids == PAD] == 0).all()
        ):
            raise ValueError("its n-grams contradict each other")
        parents = len(ids)
    if not counts[0].any():
        raise ValueError("it has no n-grams")
    return found


def _texts(tensors: Tensors, about: AboutFit) -> list[list[int]]:
    tokens, begins = tensors["tokens"], tensors["begins"]
    if not (
        tokens.ndim == begins.ndim == 1
        and len(begins)
        and begins[0] == 0
        and begins[-1] == len(tokens)
        and (np.diff(begins) >= 0).all()
        and ((tokens >= 0) & (tokens < about.vocab_size)).all()
    ):
        raise ValueError("its texts contradict each other")
    return [tokens[a:b].tolist() for a, b in itertools.pairwise(begins.tolist())]
