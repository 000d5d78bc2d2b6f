"""Writes docs/conformance.md: each bug class, what catches it, and where it was seen.

python tools/conformance_docs.py
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "conformance.md"
sys.path.insert(0, str(ROOT / "tests"))

from lm_eval_specfair.conformance.suite import CHECKS, HARNESS_CLASSES  # noqa: E402

from support.mutants import HARNESS_MUTANTS, MUTANTS  # noqa: E402

HEAD = """# Conformance: known bugs of speculative decoders

<!-- Written by tools/conformance_docs.py; a test keeps it up to date. -->

    specfair conformance --backend specfair|assisted|vllm|package.module:Name
                         [--check NAME] [-o FILE.json]

runs the checks below against a decoder, on tiny models with random weights made in memory (about
15 seconds of one core for this package's engine). A decoder is anything behind the protocol of
[`conformance/adapter.py`](../lm_eval_specfair/conformance/adapter.py): token ids and settings in,
token ids and, where it knows them, counts out;
[`examples/conformance_backend.py`](../examples/conformance_backend.py) is one of 80 lines to start
from. Exit status: 0 no check failed, 1 one did, 2 wrong input or a backend that is not installed.
`vllm-mended` is vLLM as `backend=vllm` runs it: functions that sample wrongly on CPUs are replaced.
With `-o FILE.json` results are kept after each check (and as Markdown beside it), and a run that
was stopped resumes there.

- **passed**: everything that was examined holds; a check that examined nothing fails.
- **failed**: the first few errors are shown. A greedy text is *exact* where each token is the
  most likely one of a full fp64 pass over all before it, *near-tie* where the gap in fp64 is within
  four times the largest error that the model's own type makes in that very pass, else a *real bug*.
- **refused**: the decoder said in words that it does not do this, where that is a good answer.
- **not applicable**: the decoder lacks a capability that the check needs; never a pass.

Distributions are compared with the target's own, all texts enumerated: exactly, where the
acceptance rule can be called with given random numbers, else by Pearson's test on drawn texts
(false alarm of one test: 1 in 100,000).

Every bug in the table is put into our engine by
[`tests/support/mutants.py`](../tests/support/mutants.py) (classes 22 to 24:
`test_harness_classes.py`), with the trial at loading switched off, and the named check has to fail.
"""


def page() -> str:
    """The whole page."""
    bugs = defaultdict(list)
    for mutant in MUTANTS:
        bugs[mutant.number].append(mutant.what)
    for number, what in HARNESS_MUTANTS:
        bugs[number].append(what)
    entries = sorted([*CHECKS, *HARNESS_CLASSES], key=lambda entry: entry.number)
    lines = [
        HEAD,
        f"{len(entries)} classes, {sum(map(len, bugs.values()))} injected bugs.",
        "",
        "| # | caught by | what holds | injected bugs | witness |",
        "|---|---|---|---|---|",
    ]
    for entry in entries:
        what = "; ".join(bugs[entry.number]).replace("|", "\\|")
        lines.append(
            f"| {entry.number} | `{entry.name}` | {entry.proves} | {what} | {entry.witness} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
