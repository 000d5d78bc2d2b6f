"""What verbs share: arguments, declared once; one line for wrong ones; the files written."""

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from lm_eval_specfair.cli.shared.outputs import folder_to_write
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.groups.sources import GROUP_SOURCES

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Argparse's own would print the usage too, which for lm-eval's run fills a screen."""
    raise ConfigError(f"{message}; see `{parser.prog} --help`")


class Parser(argparse.ArgumentParser):
    """Raises `ConfigError` where argparse would print the usage and exit; so do its verbs'."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        _refuse(self, message)

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:  # argparse says nothing of help that cannot be written
            (file or sys.stderr).write(message)


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """The same for parsers that others make meanwhile."""
    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = _refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]


def at_least(
    least: float, kind: type[int | float] = int, *, most: float = math.inf
) -> Callable[[str], float]:
    """A type for numbers in a range; anything else is refused with the argument's name."""
    noun = "a whole number" if kind is int else "a number"
    span = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or value == math.inf:  # NaN is refused, too
            raise argparse.ArgumentTypeError(f"expected {noun} {span}, got {text!r:.60}")
        return value

    return number


def three_numbers(text: str) -> tuple[float, float, float]:
    """A type for c, v and o of a step."""
    try:
        draft, verify, overhead = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected three numbers such as 0.05,1.1,0.02, got {text!r}"
        ) from None
    # Not `draft < 0 or ...`: it would let NaN pass.
    if not (0 <= draft < math.inf and 0 < verify < math.inf and abs(overhead) < math.inf):
        raise argparse.ArgumentTypeError(
            f"expected finite numbers, c at least 0 and v above 0, got {text!r}"
        )
    return draft, verify, overhead


def existing(text: str) -> Path:
    """A type for files and folders that are to be read."""
    if not text or not Path(text).exists():
        raise argparse.ArgumentTypeError(f"expected a file or a folder, {text!r:.200} is not there")
    return Path(text)


def _field(text: str) -> str:
    if not all(name.strip() for name in text.split(",")):
        raise argparse.ArgumentTypeError(
            f"expected a field, or several with commas between, got {text!r:.60}"
        )
    return text


def _sources(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(","))
    if unknown := names - set(GROUP_SOURCES):
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(GROUP_SOURCES)}, got {', '.join(sorted(unknown))!r:.60}"
        )
    return names | {"file"}


_SHARED: dict[str, dict[str, Any]] = {
    "run_dir": {"type": Path, "metavar": "RUN_DIR", "help": "folder with run.json and records"},
    "run_dirs": {"nargs": "+", "type": Path, "metavar": "RUN_DIR"},
    "sources": {
        "nargs": "+",
        "type": Path,
        "metavar": "SOURCE",
        "help": "the target's texts: a run's folder, samples_*.jsonl of lm-eval, a folder of "
        "<group>.txt, or JSON Lines with text (or prompt and response) and a group",
    },
    "--documents": {
        "default": "all",
        "metavar": "WHICH",
        "help": "all, even, odd, or K/N: documents whose number leaves K when divided by N; replay "
        "takes the same (default: all)",
    },
    "--output": {"type": folder_to_write, "metavar": "DIR"},
    "--format": {"default": "table", "help": "what is printed (default: %(default)s)"},
    "--group-by": {
        "type": _field,
        "default": "language",
        "metavar": "FIELD",
        "help": "what makes a group, such as language or script (default: %(default)s)",
    },
    "--groups": {
        "type": Path,
        "metavar": "FILE",
        "help": "your own groups of tasks and languages, as YAML, JSON or CSV "
        "(docs/attribution.md)",
    },
    "--group-source": {
        "type": _sources,
        "default": ",".join(GROUP_SOURCES[1:]),
        "metavar": "SOURCE,...",
        "help": f"what may name a request's group, of {', '.join(GROUP_SOURCES[1:])}: a `name` "
        "alone is a guess, an `ambiguous_name` a poor one; a --groups file always may "
        "(default: all)",
    },
    "--no-texts": {
        "action": "store_true",
        "help": "leave the requests and their texts out of the page (to publish it, or if they are "
        "private)",
    },
    "--min-requests": {"type": at_least(1), "default": 5, "metavar": "N"},
    "--all-measures": {
        "action": "store_true",
        "help": "every measure of spread; by default difference, ratio, coefficient of variation, "
        "Gini and U (variance less noise)",
    },
}


def add_shared(parser: argparse.ArgumentParser, *names: str, **changes: Any) -> None:
    """Declare arguments that several verbs take; `changes` are to what `add_argument` is told."""
    for name in names:
        flags = ("-o", name) if name == "--output" else (name,)
        parser.add_argument(*flags, **_SHARED[name] | changes)


def name_files(files: Iterable[Path]) -> None:
    """Say on stderr what was written."""
    for file in files:
        print(f"specfair: wrote {one_line(file)}", file=sys.stderr)
