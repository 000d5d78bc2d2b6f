"""The command line, ``specfair``: turns arguments into calls and errors into exit statuses.

One module per verb, in three folders by what verbs are for (measure, read, mend). Each imports what
it needs when it runs, so that help is instant. Results go to stdout, logs to stderr; this is the
only room that prints. Exit statuses: 0 done, 1 a gate said no or requests failed, 2 the input was
wrong or a result could not be written, 130 interrupted. A reader that closes early, as `| head`
does, ends what is printed and nothing else.
"""

import sys
from collections.abc import Sequence

from lm_eval_specfair import __version__
from lm_eval_specfair.cli.measure import (
    conformance,
    coverage,
    fetch_data,
    import_logs,
    replay,
    run,
    tasks_path,
)
from lm_eval_specfair.cli.mend import fit, mixture, policy, prune, train
from lm_eval_specfair.cli.read import (
    compare,
    export,
    leaderboard,
    plan,
    report,
    submission,
    trace,
    trend,
)
from lm_eval_specfair.cli.shared.outputs import (
    flush_results,
    outlive_readers,
    system_errors_told,
)
from lm_eval_specfair.cli.shared.parser import Parser
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line

_VERBS = (
    run,
    report,
    trace,
    compare,
    plan,
    export,
    replay,
    import_logs,
    coverage,
    train,
    fit,
    prune,
    mixture,
    policy,
    submission,
    leaderboard,
    trend,
    fetch_data,
    conformance,
    tasks_path,
)
_OWN_FLAGS = {"-h", "--help", "--version"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, by default this process's; the exit status.

    Raises:
        SystemExit: After --help and --version.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # As with lm-eval itself, the verb "run" may be left out.
    if arguments and arguments[0].startswith("-") and arguments[0] not in _OWN_FLAGS:
        arguments.insert(0, "run")
    outlive_readers()
    try:
        with system_errors_told():
            try:
                status = _status(arguments)
            finally:  # --help and --version end by an exception
                flush_results()
    except KeyboardInterrupt:
        return 130  # as shells say of a program that Ctrl-C ended
    except ConfigError as error:
        print(f"specfair: error: {one_line(error)}", file=sys.stderr)
        return 2
    return status


def _status(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:  # argparse can't pass on options that it doesn't know
        return run.main(arguments[1:])
    namespace, unknown = _parser().parse_known_args(arguments)
    if unknown:  # argparse would name the help of all verbs
        raise ConfigError(
            f"unrecognized arguments: {' '.join(unknown)}; see `specfair {namespace.verb} --help`"
        )
    status: int = namespace.handler(namespace)
    return status


def _parser() -> Parser:
    parser = Parser(
        prog="specfair",
        description="Who gets the speed-up when a model is served with speculative decoding?",
        epilog="example: specfair run --tasks specfair_demo --batch_size 8",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add_parser(verbs)
    return parser
