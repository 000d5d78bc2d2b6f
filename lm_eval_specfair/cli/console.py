"""The files that a verb wrote, named on standard error."""

import sys
from collections.abc import Iterable
from pathlib import Path

from lm_eval_specfair.escape import one_line


def name_files(files: Iterable[Path]) -> None:
    """Say on stderr what was written."""
    for file in files:
        print(f"specfair: wrote {one_line(file)}", file=sys.stderr)
