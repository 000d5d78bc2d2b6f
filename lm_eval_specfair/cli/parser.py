"""Arguments that make no sense are refused in one line, as all other wrong input is."""

import argparse
import contextlib
from collections.abc import Iterator
from typing import NoReturn

from lm_eval_specfair.errors import ConfigError


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Argparse's own would print the usage too, which for lm-eval's run fills a screen."""
    raise ConfigError(f"{message}; see `{parser.prog} --help`")


class Parser(argparse.ArgumentParser):
    """Raises `ConfigError` where argparse would print the usage and exit; so do its verbs'."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        _refuse(self, message)


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """The same for parsers that others make meanwhile."""
    original = argparse.ArgumentParser.error
    argparse.ArgumentParser.error = _refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = original  # type: ignore[method-assign]
