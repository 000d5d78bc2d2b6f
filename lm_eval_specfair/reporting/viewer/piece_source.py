"""What a run's token ids spell: as the run noted it, else from its tokenizer's file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, read_pieces
from lm_eval_specfair.records.texts.tokenizer_file import pieces_of_file, tokenizer_file


def pieces_of_run(
    folder: Path, run: Mapping[str, Any], tokenizer: str | None = None
) -> TokenPieces:
    """The pieces of a run's tokens; empty where neither the run nor a tokenizer tells.

    Args:
        folder: The run's folder.
        run: Its `run.json`.
        tokenizer: A folder or hub id that is asked instead.

    Raises:
        ConfigError: If the tokenizer is not found, or a file is none.
    """
    if tokenizer is not None:
        path = tokenizer_file(tokenizer)
        if path is None:
            raise ConfigError(
                f"no tokenizer.json in {tokenizer!r:.100} nor of that name in the hub's cache; "
                "expected a folder that has one"
            )
        return pieces_of_file(path)
    if (noted := read_pieces(folder)) is not None:
        return noted
    settings = run.get("settings")
    known = settings if isinstance(settings, dict) else {}
    vocabulary = known.get("drafter_vocabulary")
    counts_in_drafters = isinstance(vocabulary, dict) and vocabulary.get("method") == "own_tokens"
    name = known.get("drafter" if counts_in_drafters else "target")
    path = tokenizer_file(name) if isinstance(name, str) and name else None
    return TokenPieces() if path is None else pieces_of_file(path)
