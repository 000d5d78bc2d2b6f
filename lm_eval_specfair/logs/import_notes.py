"""What logs said and what they did not, in totals for `run.json` and sentences for people."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.logs.counter_snapshots import CountedTraffic
from lm_eval_specfair.logs.logged_request import LoggedRequest
from lm_eval_specfair.serving.count_fields import CutText
from lm_eval_specfair.serving.served_counts import CONVENTIONS

_SUMMED = "num_accepted_draft_tokens"


@dataclass(kw_only=True, slots=True)
class ImportTotals:
    """Grows while logs are read.

    Attributes:
        num_requests: With a text.
        num_failed: Without.
        num_without_counts: Of texts for which the server gives no counts of drafts.
        num_partly_counted: Of texts whose counts say less than a record holds.
        num_cut: Of texts behind whose end the server counted drafts, which were taken off.
        num_snapshots: Pairs of snapshots.
        without_group: Requests by the field that they lack.
        by_convention: Requests by whose counts they have.
        contradictions: Where counts contradict themselves, and how.
    """

    num_requests: int = 0
    num_failed: int = 0
    num_without_counts: int = 0
    num_partly_counted: int = 0
    num_cut: int = 0
    num_snapshots: int = 0
    without_group: Counter[str] = field(default_factory=Counter)
    by_convention: Counter[str] = field(default_factory=Counter)
    contradictions: list[str] = field(default_factory=list)

    def add(self, request: LoggedRequest, cut: CutText) -> None:
        """Count a request with a text."""
        self.num_requests += 1
        counts = request.counts
        if counts is None:
            self.num_without_counts += 1
            return
        self.by_convention[counts.convention] += 1
        if cut.contradiction:
            self.contradictions.append(f"{one_line(request.where)}: {cut.contradiction}")
            return
        self.num_partly_counted += any(value is None for value in cut.fields.values())
        kept, counted = cut.fields[_SUMMED], counts.num_accepted_draft_tokens
        self.num_cut += kept is not None and counted is not None and kept < counted

    def add_traffic(self, traffic: CountedTraffic) -> None:
        """Count a pair of snapshots."""
        self.num_snapshots += 1
        self.by_convention[traffic.engine] += 1

    def conventions(self) -> dict[str, str]:
        """What the counts that were met mean."""
        other = "as AIPerf took it over from this server; how it counts is not known here"
        return {name: CONVENTIONS.get(name, other) for name in sorted(self.by_convention)}

    def counts(self) -> dict[str, Any]:
        """For `run.json`."""
        return {
            "num_imported_requests": self.num_requests,
            "num_failed_requests": self.num_failed,
            "num_without_counts": self.num_without_counts,
            "num_partly_counted": self.num_partly_counted,
            "num_cut_behind_the_end": self.num_cut,
            "num_contradicting": len(self.contradictions),
            "num_snapshots": self.num_snapshots,
        }

    def notes(self) -> list[str]:
        """What whoever imports must know, in whole sentences."""
        notes = []
        if self.num_requests or self.num_failed:
            failed = f", {self.num_failed} of failed ones" if self.num_failed else ""
            notes.append(f"{self.num_requests + self.num_failed} requests{failed}.")
        for name, text in self.conventions().items():
            notes.append(f"Counts of {one_line(name)}: {text}.")
        if self.num_cut:
            notes.append(
                f"Drafts that were counted behind the end of {self.num_cut} texts were taken off."
            )
        if self.num_partly_counted:
            notes.append(
                f"{self.num_partly_counted} texts have counts that say less than a record holds; "
                "the rest is null."
            )
        if self.num_without_counts:
            notes.append(
                f"{self.num_without_counts} texts have no counts: their server was started without "
                "them (vLLM: --per-request-spec-decode-metrics detailed), or they ended at a stop "
                "string on vLLM."
            )
        if self.contradictions:
            notes.append(
                f"Counts of {len(self.contradictions)} requests contradict themselves and are "
                f"null, such as {self.contradictions[0]}."
            )
        for name, number in self.without_group.items():
            notes.append(f"{number} requests have no {one_line(name)}.")
        if self.num_snapshots:
            notes.append(
                f"{self.num_snapshots} pairs of snapshots are records of all traffic between them: "
                "drafts behind the ends of texts are in, and intervals are over pairs."
            )
        return notes
