"""What a replay will make: its folders' names, what identifies it, and what it refuses."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import RUN_FILE
from lm_eval_specfair.replays import replay_models
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.replay_folder import ReplayFolder
from lm_eval_specfair.replays.sources.replay_sources import TextSource

Key = tuple[str, int]
"""A drafter and a draft length."""


class NothingToReplay(ConfigError):
    """No text is left of those that were asked for."""


def folder_names(drafters: Sequence[str], lengths: Sequence[int]) -> dict[Key, str]:
    """A folder's name for each drafter and draft length."""
    if len(set(drafters)) < len(drafters):
        raise ConfigError(f"a --drafter is named twice: {', '.join(drafters)}")
    short = {name: Path(name).name or name for name in drafters}
    if len(set(short.values())) < len(short):
        short = {name: name.strip("/").replace("/", "-") for name in drafters}
    return {
        (name, length): short[name].replace("@", "-") + (f"-{length}" if len(lengths) > 1 else "")
        for name in drafters
        for length in lengths
    }


def done_in_all(folders: Sequence[ReplayFolder]) -> set[str]:
    """Requests that all folders that are left to fill have on record."""
    done = [folder.done for folder in folders if not folder.is_finished]
    return set.intersection(*done) if done else set()


def texts_digest(texts: Sequence[KnownText]) -> str:
    digest = hashlib.sha256()
    for text in sorted(texts, key=lambda text: text.request_id):
        digest.update(repr((text.request_id, text.prompt, text.response)).encode())
        digest.update(repr((text.max_new_tokens, *text.sampling)).encode())
        if text.drafter_temperature is not None:
            digest.update(repr(text.drafter_temperature).encode())
    return digest.hexdigest()


def texts_of(
    sources: Sequence[TextSource], documents: str, temperature: float | None
) -> list[KnownText]:
    """The sources' texts, to be replayed with drafters of a temperature of their own, if any.

    Raises:
        NothingToReplay: If there is no text.
        ConfigError: If there is no sampled one where a temperature is named.
    """
    texts = [text for source in sources for text in source.texts]
    if not texts:
        raise NothingToReplay(f"no text is left of documents {documents}: expected some to replay")
    if temperature is None:
        return texts
    if all(text.temperature == 0 for text in texts):
        raise ConfigError(
            f"--drafter-temperature {temperature:g}: no text was sampled, and of greedy texts it "
            "changes nothing; leave it out"
        )
    return [
        replace(text, drafter_temperature=temperature) if text.temperature else text
        for text in texts
    ]


def refuse_as_references(
    sources: Sequence[Path], drafters: Sequence[str], lengths: Sequence[int], target: object
) -> None:
    """Raise ConfigError where texts cannot be read as references."""
    if target is None:
        raise ConfigError("--references are read by both models: name the target with --target")
    named = {name: replay_models.named_drafter(name) for name in drafters}
    if without := [name for name, each in named.items() if each.lookup or not each.model]:
        raise ConfigError(
            f"--references: {without[0]} has no distribution at each token that is measured; name "
            "drafters that are models"
        )
    if len(lengths) > 1:
        raise ConfigError("--references: nothing is drafted, so name one --num-speculative-tokens")
    if runs := [path for path in sources if (path / RUN_FILE).exists()]:
        raise ConfigError(
            f"--references: {runs[0]} holds a run's texts, which its target wrote; name JSON Lines "
            "with prompt and response"
        )


def refuse_unreadable(texts: Sequence[KnownText], *, has_target: bool) -> None:
    sampled = next((text for text in texts if text.temperature > 0), None)
    if sampled is not None and not has_target:
        raise ConfigError(
            f"{sampled.request_id} was sampled (temperature {sampled.temperature:g}): what "
            "a drafter would have kept depends on the target's distribution; name it with --target"
        )
    twice, number = Counter(text.request_id for text in texts).most_common(1)[0]
    if number > 1:
        raise ConfigError(f"request {twice!r} is in the sources twice")
