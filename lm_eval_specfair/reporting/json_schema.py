"""The published JSON Schemas of reports, comparisons and trends (draft 2020-12).

The files of `schemas/` (`report-N.json` and so on) are never changed so that an old file of
schema version N would be refused; a change that could do so takes a new number.
"""

import importlib.resources
import json
from typing import Any, Literal

from lm_eval_specfair.reporting.comparison import compare_text
from lm_eval_specfair.reporting.report import report_text
from lm_eval_specfair.reporting.trend import trend_text

_NEWEST = {
    "report": report_text.SCHEMA_VERSION,
    "comparison": compare_text.SCHEMA_VERSION,
    "trend": trend_text.SCHEMA_VERSION,
}


def json_schema(
    kind: Literal["report", "comparison", "trend"], version: int | None = None
) -> dict[str, Any]:
    """The JSON Schema of what `--format json` prints, by default the newest version.

    Raises:
        ValueError: If this version does not exist.

    Example:
        >>> json_schema("report")["properties"]["schema_version"]
        {'const': 2}
        >>> json_schema("comparison")["properties"]["schema_version"]
        {'const': 1}
    """
    version = _NEWEST[kind] if version is None else version
    folder = importlib.resources.files("lm_eval_specfair.reporting") / "schemas"
    file = folder / f"{kind}-{version}.json"
    if not file.is_file():
        raise ValueError(f"version must be one of 1 to {_NEWEST[kind]}, got {version}")
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema
