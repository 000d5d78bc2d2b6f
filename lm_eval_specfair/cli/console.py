"""Standard error of the verbs: wrong arguments in one line, and the files that were written."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.sources import GROUP_SOURCES


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Argparse's own would print the usage too, which for lm-eval's run fills a screen."""
    raise ConfigError(f"{message}; see `{parser.prog} --help`")


class Parser(argparse.ArgumentParser):
    """Raises `ConfigError` where argparse would print the usage and exit; so do its verbs'."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        _refuse(self, message)


def add_group_source(parser: argparse.ArgumentParser) -> None:
    """Declare `--group-source`."""
    parser.add_argument(
        "--group-source",
        type=_sources,
        default=",".join(GROUP_SOURCES[1:]),
        metavar="SOURCE,...",
        help=f"what may name a request's group, of {', '.join(GROUP_SOURCES[1:])}: a `name` alone "
        "is a guess; a --groups file always may (default: all)",
    )


def _sources(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(","))
    if unknown := names - set(GROUP_SOURCES):
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(GROUP_SOURCES)}, got {', '.join(sorted(unknown))!r:.60}"
        )
    return names | {"file"}


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """The same for parsers that others make meanwhile."""
    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = _refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]


def name_files(files: Sequence[Path]) -> None:
    """Say on stderr what was written."""
    for file in files:
        print(f"specfair: wrote {one_line(file)}", file=sys.stderr)
