"""`specfair run`: lm-eval's own run with this package's model and tasks, then a report."""

import argparse
import sys
from pathlib import Path
from types import TracebackType

from lm_eval_specfair.cli.output import name_files
from lm_eval_specfair.errors import ConfigError

_RUN_HELP = """\
usage: specfair run [OPTIONS OF lm-eval run]

Evaluate with lm-eval, with this package's model and tasks registered (no hook and no
--include_path needed), then report who got the speed-up. Without --model or --config the model
is specfair. The folder with the records is named at the end.

examples:
  specfair run --tasks specfair_demo --batch_size 8
  SPECFAIR_DATA_DIR=data specfair run --tasks xnli_multi    (see: specfair fetch-data --help)

All options of lm-eval's own run work; its help follows.
"""

# Where lm-eval and transformers refuse the user's input, rather than fail: the module that raises,
# and the function there if it is only one.
_REFUSALS = {
    ("lm_eval.config.evaluate_config", None),  # tasks not found, options that contradict
    ("lm_eval._cli.utils", None),  # broken JSON in an option
    ("lm_eval.api.registry", "get_model"),
    ("lm_eval.evaluator", "simple_evaluate"),
    ("lm_eval.tasks.manager", "_check_duplicates"),
    ("transformers.utils.hub", None),  # no such model
    ("transformers.models.auto.configuration_auto", None),  # a folder without one
}


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """List the verb; its arguments are lm-eval's, which `main` passes on as they are."""
    verbs.add_parser("run", help="lm-eval's own run, with a disparity report at the end")


def main(arguments: list[str]) -> int:
    """Hand the arguments to lm-eval, then report; the exit status."""
    from lm_eval_specfair.harness import hook

    hook.install()
    if {"-h", "--help"} & set(arguments):
        print(_RUN_HELP, flush=True)
    else:
        arguments = _completed(arguments)
    sys.argv = ["specfair", "run", *arguments]

    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except (ValueError, TypeError, OSError) as error:
        if _is_refusal(error):
            raise ConfigError(str(error)) from error
        raise
    finished, failed = _finished_runs()
    for run_dir in finished:
        _print_report_of(run_dir)
    return 1 if failed else 0


def _completed(arguments: list[str]) -> list[str]:
    """The arguments with our model, unless they or a configuration file may name another."""
    # lm-eval has other options that start like these three, so it takes no shorter spelling either.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for long, short in (("--model", "-M"), ("--config", "-C"), ("--tasks", "-t")):
        parser.add_argument(long, short, nargs="*")
    given, _ = parser.parse_known_args(arguments)
    if given.tasks is None and given.config is None:
        # lm-eval would say so too, seconds later.
        raise ConfigError(
            "run needs --tasks or --config, got neither: name a task, as in --tasks specfair_demo; "
            "`lm_eval ls tasks` lists them."
        )
    if given.model is None and given.config is None:
        return ["--model", "specfair", *arguments]
    return arguments


def _is_refusal(error: Exception) -> bool:
    """Whether lm-eval or transformers raised the error because of what the user asked for."""
    frame: TracebackType | None = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return False
    module = frame.tb_frame.f_globals.get("__name__")
    function = frame.tb_frame.f_code.co_name
    return bool({(module, None), (module, function)} & _REFUSALS)


def _finished_runs() -> tuple[list[Path], set[Path]]:
    """Folders of finished runs, and of those in which requests failed."""
    # Not imported where another model ran: it would load torch to say that there is nothing.
    model = sys.modules.get("lm_eval_specfair.harness.model")
    if model is None:
        return [], set()
    return list(model.SpecFairLM.finished_runs), model.SpecFairLM.failed_runs


def _print_report_of(run_dir: Path) -> None:
    from lm_eval_specfair.reporting.report import write_report
    from lm_eval_specfair.reporting.summary import build_summary, render

    summary = build_summary([run_dir])
    files = write_report(summary, run_dir)
    print(render(summary, "table"))
    name_files([run_dir, *files])
