"""A trend as a data frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lm_eval_specfair.api.frames import StrPath

if TYPE_CHECKING:
    from lm_eval_specfair.reporting.trend.build_trend import Trend


@dataclass(frozen=True)
class RunTrend:
    """Measurements of a folder over time, as `specfair trend` reads them.

    Attributes:
        trend: All series, as the package holds them.
    """

    trend: Trend

    @cached_property
    def by_group(self) -> pd.DataFrame:
        """A row per series, date, measurement and group: value, low, high, n, and if it broke."""
        rows = [
            {
                "series": number,
                "date": point.date,
                "name": point.name,
                "group": group,
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "n": one.n,
                "is_break": any(
                    each.group == group and each.run == place for each in series.breaks
                ),
            }
            for number, series in enumerate(self.trend.series)
            for place, point in enumerate(series.points)
            for group, line in series.groups.items()
            if (one := line[place]) is not None
        ]
        return pd.DataFrame(rows).set_index(["series", "date", "name", "group"])

    @property
    def verdict(self) -> list[str]:
        """What left its level, in a few sentences."""
        from lm_eval_specfair.reporting.trend.trend_headline import trend_headline

        return trend_headline(self.trend)

    def render(self, format: str = "table") -> str:
        """The trend as text: `table`, `md`, `json` or `html`."""
        from lm_eval_specfair.reporting.trend.trend_text import render_trend

        return render_trend(self.trend, format)

    def save(self, directory: StrPath) -> list[Path]:
        """Write the trend's files into a folder, as `specfair trend -o` does."""
        from lm_eval_specfair.reporting.trend.trend_text import write_trend

        return write_trend(self.trend, Path(directory))
