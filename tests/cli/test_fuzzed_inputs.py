"""Files of any content, and good ones with something changed: read, or refused in one line.

    python -m pytest tests/cli/test_fuzzed_inputs.py -n0

Nothing but `ConfigError` may come out of any reader, and its words fit on one line. Hypothesis
makes what a table of examples would not think of: `test_wrong_inputs.py` is that table.
"""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.user_file import read_mapping
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.records import RECORDS_FILE, RUN_FILE, read_records, read_run
from lm_eval_specfair.reporting.comparison.build_comparison import read_gate
from lm_eval_specfair.reporting.leaderboard.entry import Entry, read_submission, to_text
from lm_eval_specfair.reporting.leaderboard.packing import pack
from lm_eval_specfair.reporting.leaderboard.validation import validate
from lm_eval_specfair.reporting.report.answer_quality import read_quality
from lm_eval_specfair.reporting.report.build_report import as_json, build_summary
from lm_eval_specfair.training.artifacts.out_folder import claim_folder
from lm_eval_specfair.training.data.items import read_path

from support.synthetic_records import parallel_run, write_folder

SMALL = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([2**63, -(2**63), 10**400, 0, -1]),
    st.floats(),  # NaN and infinities too: Python writes and reads them
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
CONTENTS = st.one_of(
    st.binary(max_size=60),
    VALUES.map(lambda value: json.dumps(value).encode()),
    TEXT.map(lambda text: text.encode("utf-8", errors="surrogatepass")),
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    records = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=6)
    about = {"settings": {"target": "big"}, "hardware": {"processor": "EPYC"}}
    write_folder(folder / "run", records, **about, versions={"python": "3.11"})
    text = to_text(pack(folder / "run", Entry(name="ours")))
    (folder / "run" / "submission.json").write_text(text, encoding="utf-8")
    return folder


@contextlib.contextmanager
def refused_or_not():
    """Anything but `ConfigError` fails the test; its words must be printable in one line."""
    try:
        yield
    except ConfigError as error:
        said = " ".join(str(error).split())
        assert 10 < len(said) < 1500


def changed(draw, value):
    """The value with one part of it replaced, left out or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        kind = draw(st.integers(0, 7))
        if kind == 0:
            return {name: each for name, each in value.items() if name != key}
        if kind == 1:
            return value | {draw(TEXT): draw(VALUES)}
        return value | {key: changed(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], changed(draw, value[place]), *value[place + 1 :]]
    return draw(VALUES)


@st.composite
def changes(draw, value):
    return changed(draw, value)


READERS = {
    "gate": ("gate.yaml", lambda path: read_gate(str(path))),
    "groups as YAML": ("groups.yaml", read_mapping),
    "groups as JSON": ("groups.json", read_mapping),
    "groups as CSV": ("groups.csv", read_mapping),
    "policy": ("policy.json", lambda path: DraftPolicy.read(str(path))),
    "submission": ("submission.json", read_submission),
    "samples": (
        "samples_x_2026-11-28T10-00-00.000000.jsonl",
        lambda path: read_quality([path], None),
    ),
    "texts": ("rows.jsonl", lambda path: list(read_path(path))),
    "run.json": (RUN_FILE, lambda path: read_run(path.parent)),
    "records": (RECORDS_FILE, lambda path: list(read_records(path.parent))),
    "train.json": ("train.json", lambda path: claim_folder(path.parent, {}, resume=True)),
}


@pytest.mark.parametrize("name", READERS)
@SMALL
@given(content=CONTENTS)
@example(content=b"")
@example(content=b"[" * 100_000)
@example(content=b"9" * 5_000)
@example(content=b"\xef\xbb\xbf{}")
@example(content=b"a: &a [*a]")
@example(content=b"x: !!python/object/apply:os.system [false]")
@example(content=b"- " * 50_000)
def test_any_content_is_read_or_refused(tmp_path, name, content):
    file, read = READERS[name]
    (tmp_path / file).write_bytes(content)

    with refused_or_not():
        read(tmp_path / file)

    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_bytes() == content


@pytest.mark.slow
@settings(SMALL, max_examples=25)
@given(data=st.data())
def test_a_changed_record_is_reported_or_refused(good, tmp_path, data):
    lines = (good / "run" / RECORDS_FILE).read_text().splitlines()
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = json.dumps(data.draw(changes(json.loads(lines[place]))))
    shutil.copyfile(good / "run" / RUN_FILE, tmp_path / RUN_FILE)
    (tmp_path / RECORDS_FILE).write_text("\n".join(lines) + "\n")

    with refused_or_not():
        json.dumps(as_json(build_summary([tmp_path])), allow_nan=False)


@pytest.mark.slow
@settings(SMALL, max_examples=25)
@given(data=st.data())
def test_a_changed_run_is_reported_or_refused(good, tmp_path, data):
    shutil.copyfile(good / "run" / RECORDS_FILE, tmp_path / RECORDS_FILE)
    run = json.loads((good / "run" / RUN_FILE).read_text())
    (tmp_path / RUN_FILE).write_text(json.dumps(data.draw(changes(run))))

    with refused_or_not():
        json.dumps(as_json(build_summary([tmp_path])), allow_nan=False)


@SMALL
@given(data=st.data())
def test_a_changed_submission_is_refused(good, tmp_path, data):
    for name in (RECORDS_FILE, RUN_FILE):
        shutil.copyfile(good / "run" / name, tmp_path / name)
    entry = json.loads((good / "run" / "submission.json").read_text())
    new = data.draw(changes(entry))
    (tmp_path / "submission.json").write_text(json.dumps(new))

    with refused_or_not():
        validate(tmp_path)
        # What nobody can check are the submitter's own words.
        assert new["figures"] == entry["figures"]


GATE = {
    "version": 1,
    "metric": "overlap",
    "false_alarm_rate": 0.05,
    "margins": {"mean": 0.02, "worst_group": None},
    "disparity": {"statistic": "gini", "at_most": 0.3},
}
POLICY = {"schema_version": 1, "group_by": "language", "default": 4, "groups": {"en": 6}}


@SMALL
@given(gate=changes(GATE), policy=changes(POLICY))
def test_a_changed_gate_or_policy_is_read_or_refused(tmp_path, gate, policy):
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(gate))))
    (tmp_path / "policy.json").write_text(json.dumps(policy))

    with refused_or_not():
        read_gate(str(tmp_path / "gate.yaml"))
    with refused_or_not():
        read = DraftPolicy.read(str(tmp_path / "policy.json"))
        assert Path(tmp_path / "policy.json").exists()
        assert read.longest >= 1
