"""The README of results/trust from the parts' JSON files; a part that was not made says so."""

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

CONFORMANCE = Path("results/conformance/specfair.json")
FOLDER = "tests/conformance"
# Tests that inject a bug and expect it to be caught.
BUGS = (
    f"{FOLDER}/test_mutants.py::test_the_check_of_its_name_sees_the_bug",
    f"{FOLDER}/test_harness_classes.py::test_22_a_second_bos_in_one_arm_is_seen",
    f"{FOLDER}/test_harness_classes.py::test_23_what_biases_the_pairing_is_seen",
    f"{FOLDER}/test_harness_classes.py::test_24_a_cache_of_another_release_is_refused"
    "_when_a_model_is_wrapped",
)
WRONG = "tests/cli/test_wrong_inputs.py::test_wrong_input_is_status_2_one_line_and_nothing_written"
INTRODUCTION = """\
# Trust

What this package was put through. `make trust` makes all of it again; one part:
`python experiments/verification PART`. Parts that were begun are resumed, and each leaves a JSON
file here.

"""


def table(folder: Path) -> str:
    """The page, from what a folder holds."""
    parts: dict[str, Any] = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")
    }
    rows = [*_bugs(parts.get("mutants")), *_architectures()]
    rows += [*_kills(parts.get("kills")), *_inputs(parts.get("inputs"))]
    rows += [*_ties(parts.get("near_ties")), *_oracles(parts.get("oracles"))]
    rows += [*_vllm(), *_faults(parts.get("faults"))]
    page = tabulate(rows, headers=("what", "figure", "command"), tablefmt="github")
    return INTRODUCTION + page + "\n\n" + "\n\n".join(_notes(parts)) + "\n"


def _missing(name: str) -> list[tuple[str, str, str]]:
    return [(name, "not made here", f"`python experiments/verification {name}`")]


def _bugs(part: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    from lm_eval_specfair.conformance.suite import CHECKS, HARNESS_CLASSES

    classes = (
        "classes of bugs with a test of their name",
        f"{len(CHECKS) + len(HARNESS_CLASSES)} ({len(CHECKS)} of decoders, "
        f"{len(HARNESS_CLASSES)} of what is around them)",
        "`specfair conformance`",
    )
    if part is None:
        return [classes, *_missing("mutants")]
    tests = part["tests"]
    caught = sum(tests[name]["passed"] for name in BUGS)
    total = sum(sum(tests[name].values()) for name in BUGS)
    return [classes, ("bugs put in, and caught", f"{caught} of {total}", f"`{part['command']}`")]


def _architectures() -> list[tuple[str, str, str]]:
    found = json.loads(CONFORMANCE.read_text(encoding="utf-8"))
    by_name = {check["name"]: check for check in found["checks"]}
    taken, refused = by_name["architectures"], by_name["uncroppable"]
    kinds = ", ".join(note.partition(":")[0] for note in taken["notes"])
    others = ", ".join(
        note.removeprefix("refused: ").partition(" (")[0] for note in refused["notes"]
    )
    command = "`specfair conformance --check architectures --check uncroppable`"
    return [
        (
            "architectures decoded without loss",
            f"{len(taken['notes'])} ({kinds}), {taken['exact']} texts exact",
            command,
        ),
        ("architectures refused with the reason", f"{len(refused['notes'])} ({others})", command),
    ]


def _kills(part: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if part is None:
        return _missing("kills")
    survived = (
        f"{part['kills']}, over {part['runs_brought_to_their_end']} runs of "
        f"{part['records_a_run']} records"
    )
    kept = (
        f"{part['records_lost']} lost, {part['records_doubled']} doubled, "
        f"{part['values_that_differ']} values other than in the undisturbed run"
    )
    command = f"`python experiments/verification kills --kills {part['kills']}`"
    return [("kills (SIGKILL) survived", survived, command), ("records after them", kept, command)]


def _inputs(part: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if part is None:
        return _missing("inputs")
    tests = part["tests"]
    wrong = tests[WRONG]
    fuzzed = [counts for name, counts in tests.items() if "test_fuzzed" in name]
    passed = sum(counts["passed"] for counts in fuzzed)
    total = sum(sum(counts.values()) for counts in fuzzed)
    command = f"`{part['command']}`"
    return [
        (
            "wrong inputs refused: status 2, one line, nothing written",
            f"{wrong['passed']} of {sum(wrong.values())}",
            command,
        ),
        ("readers and files fuzzed beyond them", f"{passed} of {total} held", command),
    ]


def _ties(part: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if part is None:
        return _missing("near_ties")
    each = part["languages"].values()
    most = max(language["texts"] for language in each)
    return [
        (
            f"greedy texts in bf16, {len(part['languages'])} languages",
            f"{part['texts']}: {part['exact']} exact, {part['near_ties']} certified near-ties "
            f"({part['tied_tokens']} of {part['texts'] * part['tokens_a_text']} tokens), "
            f"{part['real_bugs']} real bugs; {part['differ_from_plain']} differ from plain "
            "decoding",
            f"`python experiments/verification near_ties --prompts {most}`",
        )
    ]


def _oracles(part: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if part is None:
        return _missing("oracles")
    command = "`python experiments/verification oracles`"
    theirs, its = part["assisted"], part["economize"]
    return [
        (
            f"counts against transformers {part['versions']['transformers']}'s assisted generation",
            f"{theirs['equal_texts']} of {theirs['texts']} texts and {theirs['equal_steps']} of "
            f"{theirs['steps']} steps equal",
            command,
        ),
        (
            f"KL and total variation against economize {part['versions']['economize']}",
            f"over {its['positions']} positions {its['kl_sum']:.4f} and {its['tv_sum']:.4f} here, "
            f"{its['kl_theirs_sum']:.4f} and {its['tv_theirs_sum']:.4f} there; "
            f"{its['equal_steps']} of {its['steps']} steps equal",
            command,
        ),
    ]


def _vllm() -> list[tuple[str, str, str]]:
    """From the published run on vLLM, which needs an environment of its own."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vllm"))
    from agreement import agreement

    runs = Path("results/embedded_pair"), Path("results/vllm/vllm")
    _, everything, differences = agreement(*runs)
    version = json.loads((runs[1] / "run.json").read_text("utf-8"))["versions"].get("vllm", "")
    figure = (
        f"{everything['equal']} of {everything['requests']} texts equal; of these {differences[0]} "
        f"with as many steps and {differences[1]} with one more (a text's first token comes from "
        "the prompt's pass there)"
    )
    return [
        (
            f"texts and counts against vLLM {version}".rstrip(),
            figure,
            f"`python experiments/vllm/agreement.py {runs[0]} {runs[1]}`",
        )
    ]


def _faults(part: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    if part is None:
        return _missing("faults")
    figure = f"{part['passed']} passed, {part['failed']} failed, {part['skipped']} skipped"
    what = "tests of faults: memory, disk, folders, NaN, documents that raise, Ctrl-C, ranks"
    return [(what, figure, f"`{part['command']}`")]


def _notes(parts: dict[str, Any]) -> list[str]:
    notes = []
    if "kills" in parts:
        where = ", ".join(
            f"{number} {phase}" for phase, number in parts["kills"]["by_phase"].items()
        )
        notes.append(
            f"Where kills fell: {where}. The command that was killed, always the same: "
            f"`{parts['kills']['command']}`. Processes are forked from one that has imported "
            "everything, since a start of Python costs seconds; starts of the real command are "
            "killed in `tests/harness/test_kill.py`."
        )
    if "near_ties" in parts:
        notes.append(
            "A near-tie is certified by a full fp64 pass over the same prefix: the text's token "
            "scores within four times the largest error of a plain bf16 pass over that text. The "
            f"largest gap excused was {parts['near_ties']['largest_tied_gap']:.3g} (in scores)."
        )
    if "oracles" in parts:
        largest = {
            name: parts["oracles"]["economize"][f"largest_difference_of_a_texts_{name}"]
            for name in ("kl", "tv")
        }
        notes.append(
            f"Of one text's sums, KL differs by {largest['kl']:.1g} nats and total variation by "
            f"{largest['tv']:.1g} at most from economize's, in fp32. Conventions that differ are "
            "in `experiments/verification/oracles.py` and `tests/conformance/test_differential.py`."
        )
    return notes
