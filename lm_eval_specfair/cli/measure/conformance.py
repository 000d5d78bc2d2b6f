"""`specfair conformance`: tests a decoder for known bug classes of speculative decoding."""

import argparse
import sys
from pathlib import Path

from lm_eval_specfair.cli.shared.outputs import file_to_write
from lm_eval_specfair.cli.shared.parser import Verbs, add_shared


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "conformance",
        help="test a decoder for known bug classes of speculative decoding",
        description="Run the conformance suite against a decoder, on tiny models made in memory. "
        "Exit status 1 where a check failed.",
        epilog="examples: specfair conformance --backend assisted --check eos-in-block; "
        "specfair conformance --backend vllm -o vllm.json (an hour of a core; run again, it "
        "resumes with the checks that are missing)",
    )
    parser.add_argument(
        "--backend",
        default="specfair",
        metavar="NAME",
        help="specfair (this package), specfair-heads (the same with EAGLE-3 heads), assisted "
        "(transformers' assisted generation), vllm where it is installed (vllm-mended: with the "
        "functions that backend=vllm replaces), or package.module:Name of your own adapter "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="NAME",
        help="only this check, by name or number of its bug class; may be repeated",
    )
    add_shared(parser, "--format", choices=["table", "md", "json"])
    add_shared(
        parser,
        "--output",
        type=_results_file,
        metavar="FILE.json",
        help="keep results here after each check, and as Markdown beside it; checks that the file "
        "has already are not run again",
    )
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.conformance import backends
    from lm_eval_specfair.conformance.results import keep, kept, render
    from lm_eval_specfair.conformance.suite import chosen, make_report, run_checks
    from lm_eval_specfair.conformance.trial import Status

    checks = chosen(arguments.check)
    file: Path | None = arguments.output
    backend = backends.load(arguments.backend)
    results = [] if file is None else kept(file, make_report(backend, []), checks)
    done = {result.check.name for result in results}
    if done:
        print(f"specfair: {len(done)} checks are in {file} already", file=sys.stderr)
    for result in run_checks(backend, [check for check in checks if check.name not in done]):
        results.append(result)
        check, status = result.check, result.outcome.status.value
        print(f"specfair: {check.number} {check.name}: {status}", file=sys.stderr)
        if file is not None:
            keep(make_report(backend, results), file)
    results.sort(key=lambda result: checks.index(result.check))
    report = make_report(backend, results)
    if file is not None:
        keep(report, file)
    print(render(report, arguments.format))
    return 1 if report.number(Status.FAILED) else 0


def _results_file(text: str) -> Path:
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(
            f"expected a name that ends in .json (Markdown is put beside it), got {text!r:.60}"
        )
    return file_to_write(text)
