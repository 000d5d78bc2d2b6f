"""`specfair fit`: texts in, folders of fitted drafters out."""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import structs

from lm_eval_specfair.decoding.fitted.fitted_folder import (
    ABOUT,
    AboutFit,
    Kind,
    ngram_tensors,
    store_tensors,
    tokenizer_digest,
    write_fitted,
)
from lm_eval_specfair.decoding.fitted.ngram_counts import count_ngrams
from lm_eval_specfair.decoding.fitted.ngram_model import discounts_of
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.fitting.fit_texts import FitText, read_fit_texts
from lm_eval_specfair.groups.assign import NO_GROUP, canonical_key
from lm_eval_specfair.records.policy_file import PolicyFile
from lm_eval_specfair.replays.replay_models import load_tokenizer, target_of_runs
from lm_eval_specfair.replays.sources.document_share import DocumentShare

POLICY = "policy.json"
MAX_ORDER = 12
_CONTEXT = 16  # a prompt's last tokens, by which the beginning of its answer is found
_MOST_IDS = 1 << 22  # a larger id is no vocabulary's


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A drafter that was fitted.

    Attributes:
        folder: Where it is.
        about: What it was fitted on.
        num_ngrams: By length; none of a store.
        seconds: To count and to write; without reading the texts.
    """

    folder: Path
    about: AboutFit
    num_ngrams: Sequence[int]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """All that a call fitted.

    Attributes:
        drafters: The one for all groups first.
        policy: The file that gives each group its own; None where there is one for all.
        seconds: To read the texts, and to fit.
    """

    drafters: Sequence[Fitted]
    policy: Path | None
    seconds: tuple[float, float]


def fit(
    sources: Sequence[Path],
    output: Path,
    *,
    kind: Kind = "ngram",
    order: int = 4,
    group_by: str | None = None,
    documents: str = "all",
    learn: Literal["answers", "texts"] = "answers",
    tokenizer: str | None = None,
    num_speculative_tokens: int = 4,
) -> Fit:
    """Fit a drafter on the target's texts, or one for each group and one for all.

    Args:
        sources: Runs' folders, lm-eval's samples, folders of `<group>.txt`, JSON Lines with `text`
            or with `prompt` and `response`.
        output: New folder: the drafter's, or with `group_by` that of `KIND-all`, `KIND-GROUP` and
            a policy.
        kind: `ngram`, or `lookup` for a store in which texts are looked up.
        order: Length of the longest n-grams.
        group_by: What makes a group; None for one drafter for all.
        documents: Which are learnt (`DocumentShare`).
        learn: Answers alone, or prompts too.
        tokenizer: Of the target; by default that of the first run's target.
        num_speculative_tokens: Draft length in the policy.

    Raises:
        ConfigError: If a source cannot be read, holds no text, or the output holds anything else.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"--order must be from 1 to {MAX_ORDER}, got {order}")
    _refuse_other_folder(output)
    began = time.perf_counter()
    loaded = load_tokenizer(tokenizer or target_of_runs(sources), None, [])
    share = DocumentShare.read(documents)
    texts = [
        text
        for source in sources
        for text in read_fit_texts(source, loaded, group_by=group_by or "language", documents=share)
    ]
    if not texts:
        raise ConfigError(f"no text is left of documents {documents}: expected some to fit on")
    largest = max(max((*text.prompt, *text.answer)) for text in texts)
    if largest >= _MOST_IDS:
        raise ConfigError(f"token id {largest} is no vocabulary's; expected ids of one tokenizer")
    shared = AboutFit(
        kind=kind,
        vocab_size=max(largest + 1, 0 if loaded is None else len(loaded)),
        num_texts=0,
        num_tokens=0,
        learnt=learn,
        sources=[str(source) for source in sources],
        documents=documents,
        tokenizer=None if loaded is None else tokenizer_digest(loaded),
        group_by=None if group_by is None else canonical_key(group_by),
        order=order if kind == "ngram" else None,
    )
    read = time.perf_counter()
    if group_by is None:
        drafters = [_fitted(texts, output, shared)]
        return Fit(drafters=drafters, policy=None, seconds=_seconds(began, read))
    names = sorted({group for text in texts for group in text.groups} - {NO_GROUP})
    folders = {name: output / f"{kind}-{_file_name(name)}" for name in names}
    if len(set(folders.values())) < len(folders) or f"{kind}-all" in {
        folder.name for folder in folders.values()
    }:
        raise ConfigError(f"groups by {group_by} need folders of one name: {', '.join(names)}")
    drafters = [_fitted(texts, output / f"{kind}-all", shared)]
    for name, folder in folders.items():
        own = [text for text in texts if name in text.groups]
        drafters.append(_fitted(own, folder, shared, group=name))
    policy = PolicyFile(
        group_by=canonical_key(group_by),
        default=num_speculative_tokens,
        groups=dict.fromkeys(names, num_speculative_tokens),
        default_drafter=f"{kind}-all",
        drafters={name: folder.name for name, folder in folders.items()},
        made_from={"fitted_on": shared.sources, "documents": documents},
    )
    path = write_file(output / POLICY, policy.to_json())
    return Fit(drafters=drafters, policy=path, seconds=_seconds(began, read))


def _seconds(began: float, read: float) -> tuple[float, float]:
    return read - began, time.perf_counter() - read


def _fitted(
    texts: Sequence[FitText], folder: Path, shared: AboutFit, *, group: str | None = None
) -> Fitted:
    began = time.perf_counter()
    learns_prompts = shared.learnt == "texts"
    num_tokens = sum(
        len(text.answer) + (len(text.prompt) if learns_prompts else 0) for text in texts
    )
    about = structs.replace(shared, group=group, num_texts=len(texts), num_tokens=num_tokens)
    num_ngrams: list[int] = []
    if shared.kind == "ngram":
        counts = count_ngrams(
            [
                ([*text.prompt, *text.answer], 0 if learns_prompts else len(text.prompt))
                for text in texts
            ],
            shared.order or 1,
        )
        about = structs.replace(about, discounts=discounts_of(counts))
        num_ngrams = [int((level > 0).sum()) for level in counts.counts]
        tensors = ngram_tensors(counts)
    else:
        tensors = store_tensors(
            [
                [*(text.prompt if learns_prompts else text.prompt[-_CONTEXT:]), *text.answer]
                for text in texts
            ]
        )
    write_fitted(folder, about, tensors, [text.prompt for text in texts if text.prompt])
    seconds = time.perf_counter() - began
    return Fitted(folder=folder, about=about, num_ngrams=num_ngrams, seconds=seconds)


def _file_name(group: str) -> str:
    return re.sub(r"[^\w.-]", "_", group)[:100]


def _refuse_other_folder(output: Path) -> None:
    """Only what an earlier call of this verb wrote may be written over."""
    if not output.is_dir():
        return
    for path in _entries(output):
        is_drafter = path.is_dir() and (path / ABOUT).is_file()
        if not is_drafter and path.name not in (ABOUT, "fitted.safetensors", POLICY):
            raise ConfigError(
                f"{output} holds {path.name}, which is no fitted drafter; name another folder "
                "with -o"
            )


def _entries(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
