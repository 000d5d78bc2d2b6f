"""`specfair conformance`: known bug classes of speculative decoding against a decoder."""

import argparse
import sys
import tempfile
from typing import TYPE_CHECKING

from lm_eval_specfair.errors import ConfigError

if TYPE_CHECKING:
    from lm_eval_specfair.conformance.adapter import Backend


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "conformance",
        help="known bug classes of speculative decoding against a decoder",
        description="Run the conformance suite against a decoder, on tiny models made in memory. "
        "Exit status 1 where a check failed.",
        epilog="example: specfair conformance --backend assisted --check eos-in-block --format md",
    )
    parser.add_argument(
        "--backend",
        default="specfair",
        metavar="NAME",
        help="specfair (this package), assisted (transformers' assisted generation), vllm where it "
        "is installed (vllm-mended: with what backend=vllm replaces), or package.module:Name of "
        "your own adapter (default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="NAME",
        help="only this check, by name or number of its bug class; may be repeated",
    )
    parser.add_argument(
        "--format",
        default="table",
        choices=["table", "md", "json"],
        help="what is printed (default: %(default)s)",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    """Run the checks and print the report; the exit status."""
    from lm_eval_specfair.conformance.report import render
    from lm_eval_specfair.conformance.suite import chosen, make_report, run_checks
    from lm_eval_specfair.conformance.trial import Status

    checks = chosen(arguments.check)
    backend = load_backend(arguments.backend)
    results = []
    for result in run_checks(backend, checks):
        results.append(result)
        print(
            f"specfair: {result.check.number} {result.check.name}: {result.outcome.status.value}",
            file=sys.stderr,
        )
    report = make_report(backend, results)
    print(render(report, arguments.format))
    return 1 if report.number(Status.FAILED) else 0


def load_backend(name: str) -> "Backend":
    """The backend of a name; ours with the harness' own look at tokenizers.

    Raises:
        ConfigError: If there is none of this name, or its package is not installed.
    """
    from transformers import PreTrainedTokenizerBase

    from lm_eval_specfair.conformance import backends

    if name != "specfair":
        return backends.load(name)
    from lm_eval_specfair.conformance.backends.specfair import SpecfairBackend
    from lm_eval_specfair.harness import loading

    def pair_check(target: PreTrainedTokenizerBase, drafter: PreTrainedTokenizerBase) -> None:
        with tempfile.TemporaryDirectory() as folder:
            drafter.save_pretrained(folder)
            try:
                loading.check_same_tokenizer(target, folder)
            except ConfigError as error:
                raise ConfigError(str(error).replace(folder, "drafter")) from error

    return SpecfairBackend(pair_check)
