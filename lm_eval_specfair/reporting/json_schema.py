"""The published JSON Schemas of reports and comparisons.

The files `schemas/report-N.json` and `schemas/comparison-N.json` (JSON Schema, draft 2020-12) are
never changed so that an old file of schema version N would be refused; a change that could do so
takes a new number.
"""

import importlib.resources
import json
from typing import Any

from lm_eval_specfair.reporting.comparison import compare_text
from lm_eval_specfair.reporting.report import report_json


def report_schema(version: int = report_json.SCHEMA_VERSION) -> dict[str, Any]:
    """The JSON Schema of `specfair report --format json`.

    Args:
        version: The report's `schema_version`.

    Raises:
        ValueError: If this version does not exist.

    Example:
        >>> report_schema()["properties"]["schema_version"]
        {'const': 2}
    """
    return _schema("report", version, report_json.SCHEMA_VERSION)


def comparison_schema(version: int = compare_text.SCHEMA_VERSION) -> dict[str, Any]:
    """The JSON Schema of `specfair compare --format json`.

    Args:
        version: The comparison's `schema_version`.

    Raises:
        ValueError: If this version does not exist.

    Example:
        >>> comparison_schema()["properties"]["schema_version"]
        {'const': 1}
    """
    return _schema("comparison", version, compare_text.SCHEMA_VERSION)


def _schema(kind: str, version: int, newest: int) -> dict[str, Any]:
    folder = importlib.resources.files("lm_eval_specfair.reporting") / "schemas"
    file = folder / f"{kind}-{version}.json"
    if not file.is_file():
        raise ValueError(f"version must be one of 1 to {newest}, got {version}")
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema
