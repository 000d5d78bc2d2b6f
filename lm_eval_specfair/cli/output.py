"""Naming the files that a verb wrote."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lm_eval_specfair.escape import one_line


def name_files(files: Sequence[Path]) -> None:
    """Say on stderr what was written."""
    for file in files:
        print(f"specfair: wrote {one_line(file)}", file=sys.stderr)
