"""The command line, ``specfair``: turns arguments into calls and errors into exit statuses.

Knows no figures and no models; each verb imports what it needs when it runs, so that help is
instant. Results go to stdout, logs to stderr; this is the only module that prints. Exit statuses:
0 done, 1 a gate said no, 2 the input was wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from lm_eval_specfair import __version__
from lm_eval_specfair.errors import ConfigError

_RUN_HELP = """\
usage: specfair run [OPTIONS OF lm-eval run]

Evaluate with lm-eval, with this package's model and tasks registered (no hook and no
--include_path needed), then report who got the speed-up. Without --model or --config the model
is specfair. The folder with the records is named at the end.

example:
  specfair run --tasks specfair_demo --batch_size 8

All options of lm-eval's own run work; its help follows.
"""

_OWN_FLAGS = {"-h", "--help", "--version"}

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments, by default those of this process.

    Returns:
        The exit status.

    Raises:
        SystemExit: After --help, and with status 2 where argparse refuses the arguments.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # As with lm-eval itself, the verb "run" may be left out.
    if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_FLAGS:
        arguments.insert(0, "run")
    try:
        if arguments[:1] == ["run"]:  # argparse can't pass on options that it doesn't know
            return _run(arguments[1:])
        namespace = _parser().parse_args(arguments)
        if namespace.verb == "report":
            return _report(namespace)
        return _tasks_path()
    except ConfigError as error:
        print(f"specfair: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="specfair",
        description="Who gets the speed-up when a model is served with speculative decoding?",
        epilog="example: specfair run --tasks specfair_demo --batch_size 8",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verbs.add_parser("run", help="lm-eval's own run, with a disparity report at the end")

    report = verbs.add_parser(
        "report",
        help="the disparity report of one run, or of several together",
        description="Print the disparity report of one run, or of several runs together.",
        epilog="example: specfair report results/runs/demo --group-by script --format md",
    )
    report.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="folder with run.json and records.jsonl",
    )
    report.add_argument(
        "--group-by",
        default="language",
        metavar="FIELD",
        help="what makes a group, such as language or script (default: %(default)s)",
    )
    report.add_argument(
        "--format",
        default="table",
        choices=["table", "md", "json", "csv", "html"],
        help="what is printed (default: %(default)s)",
    )
    report.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="also write the report's files here"
    )

    verbs.add_parser(
        "tasks-path",
        help="the folder of the tasks, for lm-eval's --include_path",
        description="Print the folder of the tasks, for use where the hook is switched off.",
        epilog='example: lm_eval ls tasks --include_path "$(specfair tasks-path)"',
    )
    return parser


def _run(arguments: list[str]) -> int:
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
    for run_dir in _finished_runs():
        _print_report_of(run_dir)
    return 0


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


def _finished_runs() -> list[Path]:
    # Not imported where another model ran: it would load torch to say that there is nothing.
    model = sys.modules.get("lm_eval_specfair.harness.model")
    return [] if model is None else list(model.SpecFairLM.finished_runs)


def _print_report_of(run_dir: Path) -> None:
    from lm_eval_specfair.reporting.report import write_report
    from lm_eval_specfair.reporting.summary import build_summary, render

    summary = build_summary([run_dir])
    files = write_report(summary, run_dir)
    print(render(summary, "table"))
    _name_files([run_dir, *files])


def _report(namespace: argparse.Namespace) -> int:
    from lm_eval_specfair.reporting.report import write_report
    from lm_eval_specfair.reporting.summary import build_summary, render

    summary = build_summary(namespace.run_dirs, group_by=namespace.group_by)
    print(render(summary, namespace.format))
    if namespace.output is not None:
        try:
            files = write_report(summary, namespace.output)
        except OSError as error:
            raise ConfigError(
                f"-o must be a folder that can be written to, got {namespace.output}: {error}"
            ) from error
        _name_files(files)
    return 0


def _name_files(files: Sequence[Path]) -> None:
    for file in files:
        print(f"specfair: wrote {file}", file=sys.stderr)


def _tasks_path() -> int:
    from lm_eval_specfair.harness.paths import task_configs_dir

    print(task_configs_dir())
    return 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
