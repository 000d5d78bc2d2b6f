"""What a reader must know of a run whose requests a running server answered."""

from collections.abc import Mapping
from typing import Any

from lm_eval_specfair.escape import one_line
from lm_eval_specfair.reporting.format import count


def served_notes(run: Mapping[str, Any]) -> list[str]:
    """Who counted what, and what of it could not be used; empty for runs of other kinds."""
    settings = run.get("settings")
    if not isinstance(settings, Mapping) or settings.get("backend") != "server":
        return []
    server, counting = _object(settings, "server"), _object(run, "counting")
    who = " ".join(one_line(server[name]) for name in ("api", "version") if server.get(name))
    notes = [
        f"Counted by the server ({who or 'of an unknown kind'}), which counts "
        f"{one_line(counting.get('convention', 'by a rule it does not tell'))}; here cut at each "
        "text's end. Seconds are each request's own, by the client's clock, under the run's load."
    ]
    if settings.get("counts") == "metrics":
        notes.append("Counts are differences of its /metrics, with one request at a time.")
    if counting.get("simulated") is None and settings.get("drafter") != "none":
        notes.append(
            "The server does not show whether it pretends its acceptance (a benchmark's setting)."
        )
    totals = _object(_object(run, "totals"), "counting")
    if totals.get("without_counts"):
        notes.append(
            f"Without counts of their own: {count(int(totals['without_counts']), 'text')}."
        )
    if totals.get("contradictory"):
        notes.append(
            f"Counts that contradict themselves, and are left out: "
            f"{count(int(totals['contradictory']), 'text')} "
            f"({one_line(totals.get('example'))[:120]}, for one)."
        )
    if totals.get("behind_stops"):
        notes.append(
            f"{int(totals['behind_stops']):,} tokens were generated behind stop strings and thrown "
            "away: they took the server's time, and are in no figure."
        )
    return notes


def _object(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    return found if isinstance(found, Mapping) else {}
