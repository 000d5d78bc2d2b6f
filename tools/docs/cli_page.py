"""Writes docs/cli.md from the parsers of `specfair`; a test keeps it up to date.

python tools/docs/cli_page.py
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from lm_eval_specfair.cli import _parser
from lm_eval_specfair.cli.measure.run import _RUN_HELP

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
OPENING = """\
# Command line

<!-- Written by tools/docs/cli_page.py from the parsers; do not edit. -->

Results go to stdout, logs to stderr. `specfair VERB --help` says the same as this page.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | a gate said no, a conformance check failed, or requests of a run failed |
| 2 | the input was wrong, or a result could not be written: one line says what is wrong |
| 130 | interrupted (Ctrl-C) |

Where a result goes is checked before anything is computed. A reader that closes early, as
`| head` does, ends what is printed and nothing else: files are still written, and the exit status
is the verb's own.
"""


def page() -> str:
    """The whole page."""
    sections = [OPENING]
    for name, parser in _verbs(_parser()):
        sections.append(f"## specfair {name}\n\n{_section(parser, name)}")
    return "\n".join(sections)


def _verbs(
    parser: argparse.ArgumentParser, prefix: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                full = f"{prefix} {name}".strip()
                yield full, verb
                yield from _verbs(verb, full)


def _section(parser: argparse.ArgumentParser, name: str) -> str:
    if name == "run":
        return f"```text\n{_RUN_HELP.strip()}\n```\n"
    parts = [f"{_line(parser.description or '')}\n"]
    if rows := [_row(action, parser) for action in parser._actions if _is_shown(action)]:
        parts.append("\n".join(["| argument | default | meaning |", "|---|---|---|", *rows]) + "\n")
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```\n")
    return "\n".join(parts)


def _is_shown(action: argparse.Action) -> bool:
    hidden = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    return not hidden and action.help != argparse.SUPPRESS


def _row(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    shown = ", ".join(action.option_strings)
    argument = f"{shown} {value}".strip() if shown else f"{value}{'...' if action.nargs else ''}"
    if action.required and shown:
        default = "required"
    elif not shown or action.default in (None, False, argparse.SUPPRESS):
        default = ""
    else:
        default = f"`{action.default}`"
    meaning = _line((action.help or "") % {"default": action.default, "prog": parser.prog})
    meaning = re.sub(r"\s*\(default: [^()]*\)$", "", meaning) if default else meaning
    return f"| {_code(argument)} | {default} | {_cell(meaning)} |"


def _line(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    """Text of a table's cell: nothing in it is markup."""
    return re.sub(r"([|<*_])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(PAGE.parents[1])}")
