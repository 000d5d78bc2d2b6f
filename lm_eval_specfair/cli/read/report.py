"""`specfair report`: who got the speed-up, in the records of finished runs."""

import argparse
import sys

from lm_eval_specfair.cli.shared.parser import Verbs, add_shared, existing, name_files


def add_parser(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "report",
        help="the disparity report of one run, or of several together",
        description="Print the disparity report of one run, or of several runs together. Where "
        "records are not those that their run wrote, the report says so first, and the exit status "
        "is 2.",
        epilog="example: specfair report results/runs/demo --group-by script --format md",
    )
    runs = "folder with run.json and records; several are read together"
    add_shared(parser, "run_dirs", help=runs)
    add_shared(
        parser,
        "--group-by",
        help="what makes a group: language, script, family, macroarea, resource_class, task, or a "
        "field of documents, tasks or the --groups file; several, with commas, give overlapping "
        "groups (default: %(default)s)",
    )
    add_shared(parser, "--groups", "--group-source")
    add_shared(parser, "--format", choices=["table", "md", "json", "csv", "html"])
    add_shared(parser, "--output", help="also write the report's files here")
    add_shared(parser, "--no-texts")
    add_shared(
        parser,
        "--min-requests",
        help="groups and estimates with fewer requests are listed as not reported (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=existing,
        metavar="PATH",
        help="lm-eval's samples (--log_samples), for the answer quality of groups; by default "
        "those below RUN_DIR",
    )
    parser.add_argument(
        "--quality-metric",
        metavar="NAME",
        help="their metric, such as exact_match or exact_match,flexible-extract (default: the "
        "first whose values are from 0 to 1)",
    )
    add_shared(parser, "--all-measures")
    bounds = "also the bounds of overlap and speed-up that theory gives"
    parser.add_argument("--bounds", action="store_true", help=bounds)
    where = (
        "also where drafts are lost: by position in the text, draft position, kind of token, and "
        "the tokens that end most steps; reads all records once more, tokens included"
    )
    parser.add_argument("--where", action="store_true", help=where)
    parser.set_defaults(handler=main)


def main(arguments: argparse.Namespace) -> int:
    from lm_eval_specfair.groups.user_file import user_groups
    from lm_eval_specfair.reporting.report.build_report import build_summary, render, write_report
    from lm_eval_specfair.reporting.viewer.page_data import RequestViewer

    summary = build_summary(
        arguments.run_dirs,
        group_by=arguments.group_by,
        mapping=user_groups(arguments.groups, arguments.group_source),
        min_requests=arguments.min_requests,
        samples=arguments.samples,
        quality_metric=arguments.quality_metric,
        all_measures=arguments.all_measures,
        bounds=arguments.bounds,
        where=arguments.where,
    )
    viewer = None
    if not arguments.no_texts:
        viewer = RequestViewer(
            run_dirs=arguments.run_dirs,
            group_by=arguments.group_by,
            mapping=user_groups(arguments.groups, arguments.group_source),
        )
    print(render(summary, arguments.format, viewer))
    if arguments.output is not None:
        name_files(write_report(summary, arguments.output, viewer))
    for sentence in summary.contradictions:
        print(f"specfair: warning: {sentence}", file=sys.stderr)
    return 2 if summary.contradictions else 0
