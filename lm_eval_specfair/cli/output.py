"""What verbs share: naming the files that were written, and one-line errors."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lm_eval_specfair.reporting import escape as harmless


def name_files(files: Sequence[Path]) -> None:
    """Say on stderr what was written."""
    for file in files:
        print(f"specfair: wrote {harmless.one_line(str(file))}", file=sys.stderr)


def one_line(error: Exception) -> str:
    """The error's words without line breaks, and without effect on a terminal."""
    return harmless.one_line(error)
