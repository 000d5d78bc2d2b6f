"""`specfair import-logs`: what others logged of a server's traffic, as records."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, existing, name_files
from lm_eval_specfair.errors import ConfigError

_EXAMPLES = """\
examples:
  AIPerf's export, with the languages of the file that was sent (its own input):
    specfair import-logs artifacts/profile_export.jsonl --documents prompts.jsonl -o logs
  answers of vLLM or SGLang, a JSON object a line, groups beside them:
    specfair import-logs answers.jsonl --group-field domain=metadata.tenant -o logs
  a server's counters before and after each language's traffic:
    specfair import-logs --snapshot de before.prom middle.prom --snapshot uk middle.prom \\
        after.prom -o logs
  then, as for a run:
    specfair report logs
"""


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "import-logs",
        help="read what others logged of a server's traffic",
        description=(
            "Read AIPerf's profile_export.jsonl, saved answers of vLLM, SGLang or llama.cpp, or "
            "snapshots of /metrics into a folder of records that every other verb reads. Counts "
            "are converted to this package's convention; what a log does not say is null."
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "sources",
        nargs="*",
        type=existing,
        metavar="SOURCE",
        help="profile_export.jsonl or its folder (inputs.json beside it is read too), or answers, "
        "a JSON object a line: by themselves, at `response`, or as a batch's output",
    )
    add_shared(parser, "--output", required=True, help="new folder for the records")
    parser.add_argument(
        "--group-field",
        action="append",
        default=[],
        type=_field,
        metavar="NAME[=PLACE]",
        help="a field that names a group, and where a line or document has it, such as "
        "domain=metadata.source_kind; several times for several. Usual names (language, domain, "
        "category, ...) are found without",
    )
    parser.add_argument(
        "--documents",
        type=existing,
        metavar="FILE",
        help="what was sent, as JSON Lines with the fields that name groups; a request finds its "
        "document by id (custom_id, session_id, request_id, id) or by prompt",
    )
    parser.add_argument(
        "--snapshot",
        nargs=3,
        action="append",
        default=[],
        metavar=("GROUP", "BEFORE", "AFTER"),
        help="/metrics of a server before and after the traffic of one group; several times",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="the records' task (default: the file's name)"
    )
    parser.add_argument(
        "--api",
        choices=["vllm", "sglang", "llamacpp"],
        help="whose answers these are, where they do not tell",
    )
    parser.set_defaults(handler=main)


def _field(text: str) -> tuple[str, str]:
    name, _, place = text.partition("=")
    if not name.strip() or (not place.strip() and "=" in text):
        raise argparse.ArgumentTypeError(f"expected NAME or NAME=PLACE, got {text!r:.60}")
    return name.strip(), place.strip() or name.strip()


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.logs.log_import import Snapshots, import_logs
    from lm_eval_specfair.records.run_file import RUN_FILE

    output: Path = arguments.output
    totals = import_logs(
        arguments.sources,
        output,
        group_fields=dict(arguments.group_field),
        documents=arguments.documents,
        snapshots=[Snapshots(*_pair(each)) for each in arguments.snapshot],
        task=arguments.task,
        api=arguments.api,
    )
    print("\n".join(totals.notes()))
    name_files([output / RUN_FILE])
    return 0


def _pair(words: Sequence[str]) -> tuple[str, Path, Path]:
    group, before, after = words
    for name in (before, after):
        if not Path(name).is_file():
            raise ConfigError(f"--snapshot: expected a file, {name!r:.200} is not there")
    if not group.strip():
        raise ConfigError("--snapshot: expected the name of a group, got an empty one")
    return group.strip(), Path(before), Path(after)
