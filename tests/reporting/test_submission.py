"""Leaderboard entries: what is packed agrees with its records, and nothing else does."""

import base64
import copy
import hashlib
import json
import re
import shutil

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.reporting.comparison.build_comparison import build_comparison
from lm_eval_specfair.reporting.comparison.compare_html import as_html as comparison_page
from lm_eval_specfair.reporting.leaderboard.board import (
    COLUMNS,
    as_html,
    as_markdown,
    boards,
    ranks,
    read_entries,
)
from lm_eval_specfair.reporting.leaderboard.entry import (
    Entry,
    FigureModel,
    Submission,
    to_text,
)
from lm_eval_specfair.reporting.leaderboard.packing import pack
from lm_eval_specfair.reporting.leaderboard.validation import validate
from lm_eval_specfair.reporting.report.build_report import as_json, build_summary
from lm_eval_specfair.reporting.report.report_html import as_html as report_page

from support.pages import Elements
from support.synthetic_records import parallel_run, write_folder

ABOUT = {
    "command": ["specfair", "run"],
    "settings": {"target": "big", "drafter": "small", "num_speculative_tokens": 4},
    "hardware": {"processor": "EPYC"},
    "versions": {"python": "3.11"},
}


def entry_folder(folder, *, name="ours", seed=0, **rates):
    records = parallel_run(rates or {"sw": 0.4, "fr": 0.7}, num_documents=8, seed=seed)
    write_folder(folder, records, **ABOUT)
    text = to_text(pack(folder, Entry(name=name)))
    (folder / "submission.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return entry_folder(tmp_path_factory.mktemp("entries") / "ours")


def content(folder):
    return json.loads((folder / "submission.json").read_text(encoding="utf-8"))


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from leaves(each, (*path, place))
    else:
        yield path


def field_name(path):
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return parts.removeprefix(".")


def tampered(value):
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.05 + 0.01
    if value.startswith("sha256:"):
        return "sha256:" + ("0" if value[7] != "0" else "1") + value[8:]
    return value + "x"


def test_what_was_packed_agrees(packed):
    assert validate(packed) == validate(packed / "submission.json")


def test_its_figures_are_the_reports(packed):
    report, submission = as_json(build_summary([packed])), content(packed)

    parts = [(submission["figures"]["overall"], report["overall"])]
    parts += [
        (figures, report["groups"][group])
        for group, figures in submission["figures"]["groups"].items()
    ]
    assert len(parts) == 1 + len(report["groups"])
    for packed_figures, reported in parts:
        # A submission has all figures but those by draft position, bounds and percentiles.
        assert packed_figures.keys() >= {metric.name for metric in METRICS}
        assert packed_figures == {name: reported[name] for name in packed_figures}
    speedup = submission["figures"]["standings"]["modelled_speedup"]
    assert speedup["worst_group"] == report["disparity"]["modelled_speedup"]["worst"] == "sw"
    assert speedup["worst"]["value"] == report["groups"]["sw"]["modelled_speedup"]["value"]
    assert speedup["mean"]["value"] == pytest.approx(
        sum(report["groups"][group]["modelled_speedup"]["value"] for group in ("sw", "fr")) / 2
    )


def test_every_field_that_is_tampered_with_is_named(packed, monkeypatch):
    # The figures are computed once; the comparison is what is under test.
    again = pack(packed, Entry(name="ours"))
    monkeypatch.setattr(
        "lm_eval_specfair.reporting.leaderboard.validation.pack", lambda *_args, **_options: again
    )
    honest, file = content(packed), packed / "tampered.json"
    tried = 0
    for path in leaves(honest):
        changed = copy.deepcopy(honest)
        holder = changed
        for part in path[:-1]:
            holder = holder[part]
        new = tampered(holder[path[-1]])
        if path[0] == "entry" or new is None:
            continue
        holder[path[-1]] = new
        file.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ConfigError) as refusal:
            validate(file)
        assert field_name(path) in str(refusal.value)
        tried += 1
    file.unlink()

    assert tried > 200


def test_a_field_that_is_left_out_or_made_up_is_named(packed, tmp_path):
    honest = content(packed)
    for change, complaint in (
        (
            lambda data: data["figures"]["groups"].pop("sw"),
            "figures.groups.sw is 'nothing'|missing",
        ),
        (
            lambda data: data["figures"].pop("groups"),
            "figures: Object missing required field `groups`",
        ),
        (lambda data: data.update(score=9), "Object contains unknown field `score`"),
        (
            lambda data: data["suite"]["tasks"].update(demo_de=9),
            "suite.tasks.demo_de is 9",
        ),
    ):
        changed = copy.deepcopy(honest)
        change(changed)
        folder = copied(packed, tmp_path / str(len(list(tmp_path.iterdir()))))
        (folder / "submission.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ConfigError, match=complaint):
            validate(folder)


def copied(folder, to):
    to.mkdir(parents=True)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_changed_records_are_named_by_their_digest(packed, tmp_path):
    folder = copied(packed, tmp_path / "entry")
    records = folder / "records.jsonl"
    records.write_text(
        records.read_text().replace('"num_prompt_tokens": 12', '"num_prompt_tokens": 9', 1)
    )

    with pytest.raises(ConfigError, match=r"records\[0\]\.sha256 is 'sha256:"):
        validate(folder)


def test_records_that_contradict_themselves_are_refused(packed, tmp_path):
    folder = copied(packed, tmp_path / "entry")
    lines = (folder / "records.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["num_accepted_draft_tokens"] += 5
    (folder / "records.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")

    with pytest.raises(ConfigError, match=r"record of 'xnli_sw/0/0' .* num_accepted_draft_tokens"):
        pack(folder, Entry(name="x"))


@pytest.mark.parametrize(
    "name", ["../records.jsonl", "/etc/passwd", "a/b", "..", ".", "a\\b", "C:\\x", "x\0", ""]
)
def test_no_path_leads_out_of_the_folder(packed, name):
    changed = content(packed)
    changed["records"][0]["name"] = name

    with pytest.raises(ValueError, match=r"records\[0\]"):
        msgspec.json.decode(json.dumps(changed), type=Submission)


def test_a_file_that_is_not_there_is_not_looked_for_elsewhere(packed, tmp_path):
    folder = copied(packed, tmp_path / "entry")
    changed = content(folder)
    changed["records"][0]["name"] = "passwd"
    (folder / "submission.json").write_text(json.dumps(changed))

    with pytest.raises(ConfigError, match=r"records\[0\]\.name is 'passwd', its files say"):
        validate(folder)


@pytest.mark.parametrize("name", ["records.jsonl", "run.json", "submission.json"])
def test_links_are_refused(packed, tmp_path, name):
    folder = copied(packed, tmp_path / "entry")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)

    with pytest.raises(ConfigError, match=r"is a link|is no plain file"):
        validate(folder)


def test_a_run_without_speedups_or_without_an_end_is_no_entry(tmp_path):
    records = parallel_run({"sw": 0.4, "fr": 0.7}, num_documents=8, num_baselines=0)
    plain = write_folder(tmp_path / "plain", records, **ABOUT)
    killed = write_folder(tmp_path / "killed", records, **ABOUT | {"finished": None})

    with pytest.raises(ConfigError, match="no speed-up in every language"):
        pack(plain, Entry(name="x"))
    with pytest.raises(ConfigError, match="did not finish"):
        pack(killed, Entry(name="x"))


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\x1b[2J", "abc\u202e", "x" * 201])
def test_names_are_one_line_of_visible_text(name):
    with pytest.raises(ValueError, match="name"):
        Entry(name=name)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "http://a.b", "https://a b", "//a"])
def test_links_are_https(url):
    with pytest.raises(ValueError, match="url"):
        Entry(name="x", url=url)


def test_the_schema_is_printed(capsys):
    assert main(["submission", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)

    assert schema["properties"]["schema_version"]["const"] == 1
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(Submission.__struct_fields__)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"schema_version": 2}', "9" * 5_000])
def test_what_is_no_submission_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "submission.json").write_text(text)

    with pytest.raises(ConfigError) as refusal:
        validate(tmp_path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


figures = st.tuples(st.floats(0, 3), st.floats(0, 1), st.booleans()).map(
    lambda drawn: FigureModel(
        value=drawn[0],
        low=drawn[0] - drawn[1] if drawn[2] else None,
        high=drawn[0] + drawn[1] if drawn[2] else None,
        n=9,
    )
)


@hypothesis.given(st.lists(figures, min_size=1, max_size=8))
def test_ranks_hold_whatever_the_truth_within_the_intervals(drawn):
    found = ranks(drawn)

    # The best that an entry can do is its high end against all others' low ends, and the reverse.
    for place, figure in enumerate(drawn):
        others = [each for i, each in enumerate(drawn) if i != place]
        infinite = float("inf")
        high = infinite if figure.high is None else figure.high
        low = -infinite if figure.low is None else figure.low
        ahead = sum((-infinite if each.low is None else each.low) > high for each in others)
        behind = sum((infinite if each.high is None else each.high) < low for each in others)
        assert found[place] == (1 + ahead, len(drawn) - behind)
        assert 1 <= found[place][0] <= found[place][1] <= len(drawn)


@pytest.fixture(scope="module")
def board_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    entry_folder(folder / "a", name="unequal", sw=0.3, fr=0.85)
    entry_folder(folder / "b", name="<img src=x onerror=alert(1)> | @all", sw=0.6, fr=0.6)
    entry_folder(folder / "c", name="another suite", de=0.5, fr=0.6)
    (folder / "README.md").write_text("not an entry")
    return folder


def test_entries_are_ranked_by_the_worst_group_within_their_suite(board_folder):
    first, second = boards(read_entries(board_folder).sound)

    assert [row[0].text for row in first.rows] == [
        "<img src=x onerror=alert(1)> | @all",
        "unequal",
    ]
    assert [row[1].text for row in first.rows] == ["1", "2"]
    assert [row[0].text for row in second.rows] == ["another suite"]
    worst = first.rows[1][2]
    assert re.fullmatch(r"\d\.\d\d \[\d\.\d\d, \d\.\d\d\] sw", worst.text)


def test_the_page_asks_nobody_and_runs_no_names(board_folder):
    page = as_html(read_entries(board_folder))
    elements = Elements(page).found

    assert not [tag for tag, _ in elements if tag in ("img", "link", "iframe", "object")]
    assert not re.search(r"""src\s*=|url\(|@import""", page.replace("&lt;img src=x", ""))
    assert [tag for tag, _ in elements].count("script") == 1
    policy = next(each["content"] for _, each in elements if "http-equiv" in each)
    assert policy.startswith("default-src 'none'")
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert [each["scope"] for tag, each in elements if tag == "th"].count("row") == 3
    assert all("aria-label" in each for _, each in elements if each.get("role") == "region")


def test_numbers_sort_as_numbers_and_names_as_names(board_folder):
    entries = read_entries(board_folder)
    board, page = boards(entries.sound)[0], as_html(entries)
    heads = re.findall(r'<th scope="col"( data-kind="text")?>([^<]+)</th>', page)[: len(COLUMNS)]

    assert [name for is_text, name in heads if is_text] == [
        "Entry", "Target", "Drafter", "Greedy texts as plain", "Machine", "Submitted by",
    ]  # fmt: skip
    # The first of a column sorted downwards is the best rank.
    keys = [row[COLUMNS.index("Rank by worst group")].value for row in board.rows]
    assert keys == sorted(keys, reverse=True)
    assert all(f'data-value="{key}"' in page for key in keys)


def test_all_pages_share_one_style_and_one_script(board_folder):
    reports = [
        report_page(build_summary([board_folder / "a"])),
        as_html(read_entries(board_folder)),
    ]
    comparison = build_comparison(board_folder / "a", [board_folder / "b"], num_resamples=50)
    for tag in ("style", "script"):
        texts = {
            re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
            for page in (*reports, comparison_page(comparison))
        }
        assert len(texts) == 1


def test_the_policy_names_the_pages_own_style_and_script(board_folder):
    page = as_html(read_entries(board_folder))
    for tag in ("style", "script"):
        text = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page.replace("&#39;", "'")


def test_the_markdown_table_holds_every_entry_in_cells_of_its_own(board_folder):
    text = as_markdown(read_entries(board_folder))
    [line] = [line for line in text.splitlines() if "onerror" in line]

    assert "<img" not in text
    assert "@all" not in text
    assert len(re.findall(r"(?<!\\)\|", line)) == 13


def test_a_tampered_entry_is_named_and_hides_no_other(board_folder, tmp_path, capsys):
    folder = tmp_path / "entries"
    for name in ("a", "b"):
        copied(board_folder / name, folder / name)
    out = tmp_path / "out"
    assert main(["leaderboard", str(folder), "-o", str(out)]) == 0
    changed = content(folder / "b")
    changed["figures"]["standings"]["modelled_speedup"]["worst"]["value"] = 9.9
    (folder / "b" / "submission.json").write_text(json.dumps(changed))
    capsys.readouterr()

    assert main(["leaderboard", str(folder), "-o", str(out)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("specfair: refused: b: ")
    assert "figures.standings.modelled_speedup.worst.value is 9.9" in line
    for file in ("leaderboard.html", "leaderboard.md"):
        text = (out / file).read_text(encoding="utf-8")
        assert "1 entry" in text
        assert "9.9" in text[text.index("Refused") :]
        assert "9.9" not in text[: text.index("Refused")]
    (folder / "a" / "records.jsonl").unlink()
    shutil.rmtree(out)
    assert main(["leaderboard", str(folder), "-o", str(out)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "none of 2 entries agrees with its records; a: " in line
    assert not out.exists()


def test_a_copy_is_named_and_takes_no_second_rank(board_folder, tmp_path, capsys):
    folder, out = tmp_path / "entries", tmp_path / "out"
    for name in ("a", "b"):
        copied(board_folder / name, folder / name)
    # Under another name, and with its records laid out in another way.
    copied(board_folder / "a", folder / "z")
    records = (folder / "z" / "records.jsonl").read_text(encoding="utf-8")
    (folder / "z" / "records.jsonl").write_text(records.replace('{"', '{ "', 1), encoding="utf-8")
    text = to_text(pack(folder / "z", Entry(name="mine")))
    (folder / "z" / "submission.json").write_text(text, encoding="utf-8")

    assert main(["leaderboard", str(folder), "-o", str(out)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line == "specfair: refused: z: a copy: all its figures are those of a, which is ranked"
    [board] = boards(read_entries(folder).sound)
    assert [row[1].text for row in board.rows] == ["1", "2"]
    assert "z: a copy" in (out / "leaderboard.md").read_text(encoding="utf-8")


def test_all_entries_are_validated_whatever_one_of_them_says(board_folder, tmp_path, capsys):
    folders = [copied(board_folder / name, tmp_path / name) for name in ("a", "b", "c")]
    (folders[1] / "run.json").write_text("{}")

    assert main(["submission", "validate", *map(str, folders)]) == 2
    first, second, third, last = capsys.readouterr().err.splitlines()
    assert "a agrees with its records" in first
    assert "this version reads schema" in second
    assert "c agrees with its records" in third
    assert last == "specfair: 2 of 3 entries agree with their records"


def test_an_entry_of_an_older_version_lacks_only_what_that_did_not_know(packed, tmp_path):
    folder = copied(packed, tmp_path / "entry")
    older = content(folder)
    figures = older["figures"]
    for metrics in (figures["overall"], *figures["groups"].values(), figures["standings"]):
        metrics.pop("overlap")
    for part, field in (("suite", "groups_sha256"), ("figures", "plain_seconds_per_token")):
        older[part].pop(field)
    (folder / "submission.json").write_text(json.dumps(older))

    # What it does not say is computed, so that it can be ranked beside newer ones.
    assert validate(folder) == validate(packed)


def test_the_verbs_pack_and_validate(packed, tmp_path, capsys):
    folder = copied(packed, tmp_path / "entry")
    (folder / "submission.json").unlink()

    assert main(["submission", "pack", str(folder), "--name", "x\ny"]) == 2
    assert "--name must be one line" in capsys.readouterr().err
    assert not (folder / "submission.json").exists()
    assert main(["submission", "pack", str(folder), "--name", "बढ़िया"]) == 0
    assert main(["submission", "validate", str(folder)]) == 0
    assert content(folder)["entry"]["name"] == "बढ़िया"
    assert main(["submission", "validate", str(tmp_path)]) == 2
