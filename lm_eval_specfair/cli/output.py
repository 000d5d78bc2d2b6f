"""What verbs share: naming the files that were written, and one-line errors."""

import sys
from collections.abc import Sequence
from pathlib import Path


def name_files(files: Sequence[Path]) -> None:
    """Say on stderr what was written."""
    for file in files:
        print(f"specfair: wrote {file}", file=sys.stderr)


def one_line(error: Exception) -> str:
    """The error's words without line breaks."""
    return " ".join(str(error).split())
