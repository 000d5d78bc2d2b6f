"""Runs that are empty, small, broken or mixed, and what each verb says of them.

`tests/cli/test_edge_cases.py` asks the report; here the same runs are compared, gated, packed and
made a policy of: either a result in every format, or one line and status 2.
"""

import json
import re
import shutil

import pytest
from msgspec import structs

from lm_eval_specfair.cli import main

from support.synthetic_records import PAIRED, extreme, generation, parallel_run, write_folder

ABOUT = {
    "settings": {
        "target": "big",
        "target_weights": "sha256:1",
        "drafter": "small",
        "dtype": "float32",
        "num_speculative_tokens": 4,
        "baseline": 8,
    },
    "hardware": {"processor": "EPYC"},
    "versions": {"python": "3.11"},
}
# What holds together, as a submission checks: 20 accepted of 40 in 10 steps.
WHOLE = {"acceptance_histogram": [2, 2, 2, 2, 2], **PAIRED}
PARALLEL = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6)


def all_or_none(*, accepted):
    return [
        structs.replace(extreme(f"demo_{tag}", d, accepted=accepted), accepted_per_step=each)
        for tag in ("sw", "fr")
        for d in range(6)
        for each in [[4 if accepted else 0] * (10 + d)]
    ]


RUNS = {
    "empty": [],
    "one group": parallel_run({"sw": 0.4}, num_documents=6),
    "one document": [
        generation(f"demo_{tag}", 0, request_id=f"{tag}/{n}", **WHOLE)
        for tag in ("sw", "fr")
        for n in range(6)
    ],
    "one request": [generation("demo_sw", 0, **WHOLE)],
    "nothing in common": [
        generation(f"demo_{tag}", first + d, num_generated_tokens=24 + d % 3, **WHOLE)
        for tag, first in (("sw", 0), ("fr", 100))
        for d in range(6)
    ],
    "all accepted": all_or_none(accepted=True),
    "none accepted": all_or_none(accepted=False),
    "no language": [generation("gsm8k", d, **WHOLE) for d in range(6)],
    "only scored": [each for each in PARALLEL if each.request_type == "loglikelihood"],
    "all failed": [structs.replace(each, failure="no numbers") for each in PARALLEL],
    "some failed": [
        structs.replace(each, failure="no numbers" if each.doc_id == 1 else None)
        for each in PARALLEL
    ],
    "missing fields": [
        structs.replace(each, num_examined_draft_tokens=None, overlap_sum=None, num_spec_steps=None)
        for each in PARALLEL
    ],
    "two runs": PARALLEL * 2,
}
NO_SPEED = "speed-up|speed-ups"
# What is refused, and in which words; all else must give a result.
REFUSALS = {
    ("empty", "compare"): "no records in .*base",
    ("empty", "gate"): "no records in .*base",
    ("empty", "policy"): "got no drafts",
    ("empty", "pack"): "no records in",
    ("one request", "gate"): "a gate needs at least one group",
    ("one request", "policy"): "at least 5 requests",
    ("one request", "pack"): NO_SPEED,
    ("no language", "gate"): "a gate needs at least one group",
    ("no language", "policy"): "at least 5 requests",
    ("no language", "pack"): NO_SPEED,
    ("only scored", "gate"): "does not have in every group",
    ("only scored", "policy"): "got no drafts",
    ("only scored", "pack"): NO_SPEED,
    ("all failed", "compare"): "all 24 requests failed",
    ("all failed", "gate"): "all 24 requests failed",
    ("all failed", "policy"): "got no drafts",
    ("all failed", "pack"): "demo_sw/0/0' failed",
    ("some failed", "pack"): "demo_sw/1/0' failed",
    ("missing fields", "gate"): "does not have in every group",
    ("missing fields", "policy"): "also decoded plainly|say how many drafted tokens",
    ("missing fields", "pack"): NO_SPEED,
    **{("two runs", verb): "recorded twice" for verb in ("compare", "gate", "policy", "pack")},
}
VERBS = {
    "compare": ("compare", "BASE", "OTHER", "--format", "html"),
    "gate": ("compare", "BASE", "OTHER", "--gate", "default", "--format", "json"),
    "policy": ("policy", "BASE", "--format", "json"),
    "pack": ("submission", "pack", "BASE", "--name", "x"),
}

# A comparison with a gate is one without, and more.
CASES = [
    (name, verb)
    for name in RUNS
    for verb in VERBS
    if verb != "compare" or (name, "gate") in REFUSALS
]


@pytest.mark.parametrize(("name", "verb"), CASES)
def test_each_verb_has_a_result_or_one_clear_line(tmp_path, capsys, name, verb):
    base = write_folder(tmp_path / "base", RUNS[name], **ABOUT)
    shutil.copytree(base, tmp_path / "other")
    folders = {"BASE": str(base), "OTHER": str(tmp_path / "other")}

    status = main([folders.get(word, word) for word in VERBS[verb]])
    out, err = capsys.readouterr()

    if (name, verb) in REFUSALS:
        assert (status, out) == (2, "")
        assert err.startswith("specfair: error: ")
        assert err.count("\n") == 1, err
        assert re.search(REFUSALS[name, verb], err), err
    else:
        assert status == 0, err
        if "json" in VERBS[verb]:
            json.loads(out, parse_constant=lambda each: pytest.fail(each))
