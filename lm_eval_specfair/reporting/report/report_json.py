"""A summary as the object that `--format json` prints (`schemas/report-2.json`)."""

import dataclasses
from typing import Any

import msgspec

from lm_eval_specfair.groups.assign import display_name
from lm_eval_specfair.metrics.statistics.intervals import CONFIDENCE
from lm_eval_specfair.metrics.summary import Summary
from lm_eval_specfair.reporting.format import as_dicts
from lm_eval_specfair.reporting.report.record_notes import flag_text

SCHEMA_VERSION = 2


def as_json(summary: Summary) -> dict[str, Any]:
    """The object; what was not measured is None, or left out where no group has it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": dict(summary.run),
        "settings": [msgspec.structs.asdict(settings) for settings in summary.settings],
        "group_by": summary.group_by,
        "overall": as_dicts(summary.overall),
        "groups": {group: as_dicts(estimates) for group, estimates in summary.groups.items()},
        "disparity": {
            metric: None
            if each is None
            else {"worst": each.worst, "best": each.best, **as_dicts(each.statistics)}
            for metric, each in summary.disparity.items()
        },
        "deviations": {
            metric: dict(each.deviations)
            for metric, each in summary.disparity.items()
            if each is not None
        },
        "associations": [dataclasses.asdict(each) for each in summary.associations],
        "concordances": [dataclasses.asdict(each) for each in summary.concordances],
        "resource_classes": dict(summary.resource_classes),
        "figures_not_reported": {
            group: dict(names) for group, names in summary.figures_not_reported.items()
        },
        "group_names": {group: display_name(group, summary.group_by) for group in summary.groups},
        "group_requests": dict(summary.group_requests),
        "not_reported": dict(summary.not_reported),
        "min_requests": summary.min_requests,
        "counts": dataclasses.asdict(summary.counts),
        "intervals": {
            "confidence": CONFIDENCE,
            "num_resamples": summary.num_resamples,
            "documents_drawn_together": summary.is_parallel,
        },
        "flags": [
            {
                "metric": flag.metric,
                "group": flag.group,
                "message": flag_text(flag, summary.group_by),
            }
            for flag in summary.flags
        ],
        "notes": list(summary.notes),
    }
