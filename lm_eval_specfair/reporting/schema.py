"""The published schema of the JSON report, for whoever reads one.

The file `schemas/report-N.json` (JSON Schema, draft 2020-12) is never changed so that an old report
of schema version N would be refused; a change that could do so takes a new number.
"""

import importlib.resources
import json
from typing import Any

from lm_eval_specfair.reporting.summary import SCHEMA_VERSION


def report_schema(version: int = SCHEMA_VERSION) -> dict[str, Any]:
    """The JSON Schema of `specfair report --format json`.

    Args:
        version: The report's `schema_version`.

    Raises:
        ValueError: If there is none of this version.

    Example:
        >>> report_schema()["properties"]["schema_version"]
        {'const': 1}
    """
    folder = importlib.resources.files("lm_eval_specfair.reporting") / "schemas"
    file = folder / f"report-{version}.json"
    if not file.is_file():
        raise ValueError(f"version must be one of 1 to {SCHEMA_VERSION}, got {version}")
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema
