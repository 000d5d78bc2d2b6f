"""`specfair run`: lm-eval's own run with this package's model and tasks, then a report."""

import argparse
import sys
from pathlib import Path

from lm_eval_specfair.cli.shared.lm_eval_errors import refusal
from lm_eval_specfair.cli.shared.outputs import (
    refuse_unwritable_file,
    refuse_unwritable_folder,
)
from lm_eval_specfair.cli.shared.parser import Verbs, name_files, refused_in_one_line
from lm_eval_specfair.errors import NO_RESPONSE_CACHE, ConfigError

_RUN_HELP = """\
usage: specfair run [OPTIONS OF lm-eval run]

Evaluate with lm-eval, with this package's model and tasks registered (no hook and no
--include_path needed), then report who got the speed-up. Without --model or --config the model
is specfair. The folder with the records is named at the end.

examples:
  specfair run --tasks specfair_demo --batch_size 8
  SPECFAIR_DATA_DIR=data specfair run --tasks xnli_multi    (see: specfair fetch-data --help)

options of the report:
  --all-measures   every measure of spread (see: specfair report --help)
  --bounds         also the bounds of overlap and speed-up that theory gives

All options of lm-eval's own run work; its help follows.
"""
_REPORT_FLAGS = ("--all-measures", "--bounds")


def add_parser(verbs: Verbs) -> None:
    """List the verb; its arguments are lm-eval's, which `main` passes on as they are."""
    verbs.add_parser("run", help="lm-eval's own run, with a disparity report at the end")


def main(arguments: list[str]) -> int:
    """Hand the arguments to lm-eval, then report; the exit status."""
    from lm_eval_specfair.harness import hook

    hook.install()
    all_measures, bounds = (flag in arguments for flag in _REPORT_FLAGS)
    arguments = [argument for argument in arguments if argument not in _REPORT_FLAGS]
    if {"-h", "--help"} & set(arguments):
        print(_RUN_HELP, flush=True)
    else:
        arguments = _completed(arguments)
    sys.argv = ["specfair", "run", *arguments]

    from lm_eval.__main__ import cli_evaluate

    try:
        with refused_in_one_line():
            cli_evaluate()
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        raise refused from error
    finished, failed = _finished_runs()
    for run_dir in finished:
        _print_report_of(run_dir, all_measures=all_measures, bounds=bounds)
    return 1 if failed else 0


def _completed(arguments: list[str]) -> list[str]:
    """The arguments with our model, unless they or a configuration file may name another."""
    # lm-eval has other options that start like these three, so it takes no shorter spelling either.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_path", "-o", type=Path)
    options = (("--model", "-M"), ("--config", "-C"), ("--tasks", "-t"), ("--use_cache", "-c"))
    for long, short in options:
        parser.add_argument(long, short, nargs="*")
    given, _ = parser.parse_known_args(arguments)
    if given.output_path is not None:
        # lm-eval makes a folder of any name that does not end in .json, at the end of the run.
        is_file = given.output_path.suffix == ".json" and not given.output_path.is_dir()
        (refuse_unwritable_file if is_file else refuse_unwritable_folder)(given.output_path)
    if given.tasks is None and given.config is None:
        # lm-eval would say so too, seconds later.
        raise ConfigError(
            "run needs --tasks or --config, got neither: name a task, as in --tasks specfair_demo; "
            "`lm_eval ls tasks` lists them."
        )
    if given.use_cache and given.model in (None, ["specfair"]):
        raise ConfigError(NO_RESPONSE_CACHE)  # the model would say so, with the cache begun
    if given.model is None and given.config is None:
        return ["--model", "specfair", *arguments]
    return arguments


def _finished_runs() -> tuple[list[Path], set[Path]]:
    """Folders of finished runs, and of those that failed in part."""
    # Not imported where another model ran: it would load torch to say that there is nothing.
    model = sys.modules.get("lm_eval_specfair.harness.model")
    if model is None:
        return [], set()
    return list(model.SpecFairLM.finished_runs), model.SpecFairLM.failed_runs


def _print_report_of(run_dir: Path, *, all_measures: bool, bounds: bool) -> None:
    from lm_eval_specfair.reporting.report.build_report import build_summary, render, write_report
    from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

    summary = build_summary([run_dir], all_measures=all_measures, bounds=bounds)
    files = write_report(summary, run_dir, RequestViewer(run_dirs=[run_dir]))
    print(render(summary, "table"))
    name_files([run_dir, *files])
    _say_what_it_can_show(run_dir)


def _say_what_it_can_show(run_dir: Path) -> None:
    """One line on the loss that a comparison of this run would find, if it has any group."""
    from lm_eval_specfair.reporting.comparison.build_plan import build_plan
    from lm_eval_specfair.reporting.comparison.plan_text import closing_line

    try:
        line = closing_line(build_plan([run_dir]))
    except ConfigError:  # no group with enough requests: the report has said so
        return
    if line is not None:
        print(f"specfair: {line}", file=sys.stderr)
