"""A run's records, tampered with in every way that could pay: refused, named, or no better ranked.

Each way is tried twice: with the run's totals left as they are, and with totals made to match, as
by somebody who knows them.
"""

import json
import re
import shutil

import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_blocks, read_run, write_run
from lm_eval_specfair.records.tally import tally_of
from lm_eval_specfair.reporting.leaderboard.board import boards, read_entries
from lm_eval_specfair.reporting.leaderboard.entry import Entry, to_text
from lm_eval_specfair.reporting.leaderboard.packing import pack
from lm_eval_specfair.reporting.leaderboard.validation import validate
from lm_eval_specfair.reporting.report.build_report import as_json, build_summary, render

from support.synthetic_records import parallel_run, write_folder

RATES = {"sw": 0.35, "fr": 0.6, "de": 0.7}
COSTLY = ("draft_seconds", "verify_seconds", "decode_seconds")


def finished(folder, records, **run):
    """A folder as a run leaves it, its totals included."""
    tasks = {f"xnli_{group}": {"metadata": {"language": group}, "config": {}} for group in RATES}
    settings = {
        "target": "big",
        "drafter": "small",
        "num_speculative_tokens": 4,
        "dtype": "float32",
    }
    about = {"settings": settings, "hardware": {"processor": "EPYC"}, "tasks": tasks}
    write_folder(folder, records, **(about | run))
    return total(folder)


def total(folder):
    run = {key: value for key, value in read_run(folder).items() if key != "schema_version"}
    run["totals"] = {"records": tally_of(read_blocks(folder)).to_json(run)}
    write_run(folder, run)
    return folder


def entered(folder, name):
    text = to_text(pack(folder, Entry(name=name)))
    (folder / "submission.json").write_text(text, encoding="utf-8")
    return folder


def drawn(seed=0):
    """Records with ids as runs of this package make them, and what documents say."""
    records = []
    for record in parallel_run(RATES, num_documents=10, num_baselines=10, seed=seed):
        line = json.loads(record.to_json())
        kind = "0" if record.request_type == "generate_until" else "1"
        line["request_id"] = f"{record.task}/{record.doc_id}/{kind}/0/{record.doc_id:08x}"
        line["group_fields"] = {"language": record.task.removeprefix("xnli_")}
        records.append(line)
    return records


def lines_of(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def generated(lines):
    return [line for line in lines if line["request_type"] == "generate_until"]


def refused(act):
    try:
        act()
    except ConfigError as error:
        return str(error)
    return ""


def per_step(line):
    return (line["num_spec_steps"] + line["num_accepted_draft_tokens"]) / line["num_spec_steps"]


# ------------------------------------------------------------------ what a cheat might do


def relabel(lines, run):
    for line in lines:
        if line["group_fields"] == {"language": "sw"}:
            line["group_fields"] = {"language": "fr"}
    return lines


def relabel_half(lines, run):
    for line in lines[::2]:
        line["group_fields"] = {"language": "de"}
    return lines


def relabel_the_task(lines, run):
    run["tasks"]["xnli_sw"]["metadata"]["language"] = "de"
    for line in lines:
        if line["task"] == "xnli_sw":
            line["group_fields"] = {"language": "de"}
    return lines


def drop_a_group(lines, run):
    run["tasks"].pop("xnli_sw")
    return [line for line in lines if line["task"] != "xnli_sw"]


def drop_the_worst(lines, run):
    worst = sorted(generated(lines), key=per_step)[:6]
    return [line for line in lines if line not in worst]


def double_the_best(lines, run):
    best = sorted(generated(lines), key=per_step)[-6:]
    copies = [
        {**line, "doc_id": 100 + n, "request_id": f"{line['task']}/{100 + n}/0/0/{n:07x}f"}
        for n, line in enumerate(best)
    ]
    return [*lines, *copies]


def double_under_free_ids(lines, run):
    best = sorted(generated(lines), key=per_step)[-6:]
    return [*lines, *({**line, "request_id": f"more-{n}"} for n, line in enumerate(best))]


def unpair_the_fast(lines, run):
    """The plain times of requests that plain decoding is quick at."""
    for line in sorted(generated(lines), key=lambda line: line["baseline_seconds"])[:12]:
        line["baseline_seconds"] = line["baseline_generated_tokens"] = line["baseline_agrees"] = (
            None
        )
    return lines


def merge_steps(lines, run):
    """Two steps become one, and nothing else does: more tokens than steps can give."""
    for line in generated(lines):
        line["num_spec_steps"] -= 2
        line["acceptance_histogram"][0] -= 2
        line["num_draft_tokens"] -= 8
    return lines


def retime_plain(lines, run):
    for line in generated(lines):
        line["baseline_seconds"] *= 1.5
    return lines


def retime_drafted(lines, run):
    for line in generated(lines):
        line |= {name: 0.6 * line[name] for name in COSTLY}
    return lines


def swap_settings(lines, run):
    run["settings"]["dtype"] = "bfloat16"
    return lines


def swap_the_draft_length(lines, run):
    run["settings"]["num_speculative_tokens"] = 8
    return lines


def swap_the_machine(lines, run):
    run["hardware"]["processor"] = "another"
    return lines


def cut_the_last_line(lines, run):
    return lines[:-1]


WAYS = [
    relabel, relabel_half, relabel_the_task, drop_a_group, drop_the_worst, double_the_best,
    double_under_free_ids, unpair_the_fast, merge_steps, retime_plain, retime_drafted,
    swap_settings, swap_the_draft_length, swap_the_machine, cut_the_last_line,
]  # fmt: skip
# Not told from a machine that drafts faster, whoever makes the totals match.
UNTOLD = {retime_drafted}


def tampered(honest, to, way, *, totals):
    shutil.copytree(honest, to)
    (to / "submission.json").unlink(missing_ok=True)
    run = read_run(to)
    lines = way(lines_of(to), run)
    (to / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (to / "run.json").write_text(json.dumps(run))
    if totals:
        total(to)
    return to


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "honest"
    folder.mkdir()
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in drawn()))
    records = [record for block in read_blocks(folder) for record in block.records]
    (folder / "records.jsonl").unlink()
    return entered(finished(folder, records), "honest")


def test_an_honest_run_contradicts_nothing_and_nothing_is_left_unchecked(honest):
    summary = build_summary([honest])

    assert (list(summary.contradictions), list(summary.unchecked)) == ([], [])
    assert validate(honest).entry.name == "honest"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_records_that_are_not_the_runs_are_refused_and_named(honest, tmp_path, capsys, way):
    folder = tampered(honest, tmp_path / "run", way, totals=False)

    with pytest.raises(ConfigError) as refusal:
        pack(folder, Entry(name="x"))
    assert "\n" not in str(refusal.value)
    assert re.search("is not as its run left it: |contradicts itself", str(refusal.value))
    for verb in ("report", "policy"):
        assert main([verb, str(folder)]) == 2
        out, err = capsys.readouterr()
        assert re.search("is not as its run left it: |contradicts itself", err)
        assert err.count("\n") == 1
        if out:  # a report says it first
            assert out.startswith("WARNING: run is not as its run left it: ")
    assert main(["compare", str(honest), str(folder)]) == 2


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_way_of_tampering_raises_a_rank_without_being_named(honest, tmp_path, way):
    entries = tmp_path / "entries"
    shutil.copytree(honest, entries / "honest")
    refusal = refused(
        lambda: entered(tampered(honest, entries / "cheat", way, totals=True), "cheat")
    )
    if refusal:
        assert re.search("is not as its run|contradicts itself|no speed-up", refusal)
        return
    found = read_entries(entries)
    assert not found.refused
    [table] = [t for t in boards(found.sound) if "cheat" in [row[0].text for row in t.rows]]
    names = [row[0].text for row in table.rows]
    if names == ["cheat"]:
        assert "honest" not in names
        assert any("Not ranked with the table above" in each.note for each in boards(found.sound))
    elif way not in UNTOLD:
        rank = {row[0].text: row[1].text for row in table.rows}
        assert "Plain decoding took cheat" in table.note or rank["cheat"] >= rank["honest"]


def test_relabelled_documents_are_named_by_their_task(honest, tmp_path):
    folder = tampered(honest, tmp_path / "run", relabel, totals=True)

    with pytest.raises(ConfigError, match=r"xnli_sw is in sw, but by its documents in fr by 20"):
        pack(folder, Entry(name="x"))


def test_copies_are_named_whatever_their_ids(honest, tmp_path):
    for way in (double_the_best, double_under_free_ids):
        folder = tampered(honest, tmp_path / way.__name__, way, totals=True)
        with pytest.raises(ConfigError, match="6 records equal to another in all that was meas"):
            pack(folder, Entry(name="x"))


def test_a_cut_last_line_of_a_finished_run_is_named(honest, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(honest, folder)
    content = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(content[:-40])
    [sentence] = build_summary([folder]).contradictions

    assert "records.jsonl ends in the middle of a line" in sentence
    assert "1 failed" not in sentence
    run = read_run(folder) | {"finished": None}
    (folder / "run.json").write_text(json.dumps(run))
    assert not build_summary([folder]).contradictions  # it says that it did not finish


def test_a_report_says_first_that_records_are_not_the_runs(honest, tmp_path):
    folder = tampered(honest, tmp_path / "run", drop_a_group, totals=False)
    summary = build_summary([folder])

    assert as_json(summary)["contradictions"] == list(summary.contradictions)
    assert "xnli_sw: 10 generated requests by run.json, 0 found" in summary.contradictions[0]
    assert render(summary, "table").splitlines()[0].startswith("WARNING: run is not as its run")
    assert "> **Warning:** run is not as" in render(summary, "md")
    assert '<p class="alarm">Warning: run is not as its run left it' in render(summary, "html")


def test_older_totals_are_held_against_too(honest, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(honest, folder)
    names = ("num_generated_tokens", "num_spec_steps", "num_accepted_draft_tokens")
    tasks = {
        f"xnli_{group}": {
            name: sum(line[name] for line in generated(lines_of(folder)) if group in line["task"])
            for name in names
        }
        for group in RATES
    }
    run = read_run(folder) | {"totals": {"num_failed_requests": 0, "tasks": tasks}}
    (folder / "run.json").write_text(json.dumps(run))
    summary = build_summary([folder])
    assert not summary.contradictions
    assert "could not be checked for times" in summary.unchecked[0]

    lines = [line for line in lines_of(folder) if line["task"] != "xnli_fr"]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [sentence] = build_summary([folder]).contradictions
    assert (
        f"xnli_fr: num_generated_tokens is {tasks['xnli_fr']['num_generated_tokens']}" in sentence
    )


def test_requests_that_took_longer_than_their_run_are_named(tmp_path, honest):
    folder = tmp_path / "run"
    shutil.copytree(honest, folder)
    run = read_run(folder)
    run.pop("totals")
    run |= {"started": "2026-11-29T01:00:00+00:00", "finished": "2026-11-29T01:02:00+00:00"}
    (folder / "run.json").write_text(json.dumps(run))
    assert not build_summary([folder]).contradictions

    lines = lines_of(folder)
    for line in generated(lines):
        line["baseline_seconds"] *= 40
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert re.search(
        "its requests took .* seconds, the whole run 120", *build_summary([folder]).contradictions
    )
