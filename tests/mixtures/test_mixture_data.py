"""Data sets drawn by shares: what is drawn, where it came from, what others' loaders read."""

import hashlib
import json

import pytest
from datasets import load_dataset

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.mixtures.text_rows import read_rows

from support.commands import refused
from support.synthetic_records import generation, write_folder
from support.training_runs import write_lines

SHARES = {"de": 0.15, "sw": 0.85}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run in which Swahili is served worse, and much more German text than Swahili."""
    records = [
        generation(f"xnli_{group}", number, overlap_sum=overlap * 28)
        for group, overlap in (("de", 0.8), ("sw", 0.4))
        for number in range(8)
    ]
    write_folder(tmp_path / "run", records)
    rows = [
        {
            "prompt": f"{group} {number}?",
            "response": f"{group} {'x' * 9} {number:05}",
            "group": group,
        }
        for group, count in (("deu", 900), ("Swahili", 100))
        for number in range(count)
    ]
    write_lines(tmp_path / "answers.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, *words, data=("answers.jsonl",), out="out"):
    words = ["mixture", "run", "--data", *data, "--data-out", out, *words]
    assert main(words) == 0
    return folder / out


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_groups_are_drawn_by_their_shares_of_what_is_learnt(folder, capsys):
    out = written(folder, "--data-size", "3000")
    manifest = json.loads((out / "data_set.json").read_text())
    # 3 bytes a token were measured of both groups.
    for name, share in SHARES.items():
        one = manifest["groups"][name]
        assert one["share"] == pytest.approx(share)
        assert one["drawn_share"] == pytest.approx(share, abs=0.005)
        assert one["epochs"] == pytest.approx(one["drawn"] / one["available"], abs=1e-3)
    assert manifest["unit"] == "estimated tokens"
    drawn = lines(out / "messages.jsonl")
    answers = {"de": 0, "sw": 0}
    for row in drawn:
        answer = row["messages"][1]["content"]
        answers["de" if answer.startswith("deu") else "sw"] += len(answer.encode()) / 3
    total = sum(answers.values())
    assert total == pytest.approx(3000, rel=0.01)
    assert answers["sw"] / total == pytest.approx(0.85, abs=0.005)


def test_every_row_says_where_it_came_from(folder):
    out = written(folder)
    source = lines(folder / "answers.jsonl")
    traces, drawn = lines(out / "drawn_rows.jsonl"), lines(out / "prompt_completion.jsonl")
    assert len(traces) == len(drawn)
    seen: dict[tuple, int] = {}
    for trace, row in zip(traces, drawn, strict=True):
        origin = source[trace["number"] - 1]
        assert (row["prompt"], row["completion"]) == (origin["prompt"], origin["response"])
        assert trace["group"] == {"deu": "de", "Swahili": "sw"}[origin["group"]]
        assert trace["file"] == "answers.jsonl"
        key = (trace["number"], trace["epoch"])
        seen[key] = seen.get(key, 0) + 1
    assert set(seen.values()) == {1}  # once in each pass
    manifest = json.loads((out / "data_set.json").read_text())
    digest = hashlib.sha256((folder / "answers.jsonl").read_bytes()).hexdigest()
    assert manifest["sources"] == {"answers.jsonl": f"sha256:{digest}"}
    # No pass begins before the last one is over.
    sw = [trace for trace in traces if trace["group"] == "sw"]
    last = max(trace["epoch"] for trace in sw)
    assert last == int(manifest["groups"]["sw"]["epochs"]) + 1 > 4
    for epoch in range(1, last):
        assert len({t["number"] for t in sw if t["epoch"] == epoch}) == 100


def test_the_same_seed_draws_the_same_bytes_and_another_does_not(folder):
    first, again, other = (
        written(folder, "--seed", seed, out=out)
        for seed, out in (("1", "a"), ("1", "b"), ("2", "c"))
    )
    for name in ("conversations.jsonl", "drawn_rows.jsonl", "data_set.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    assert (first / "messages.jsonl").read_bytes() != (other / "messages.jsonl").read_bytes()


def test_often_repeated_text_is_named(folder, capsys):
    out = written(folder)
    said = " ".join(capsys.readouterr().out.split())
    epochs = json.loads((out / "data_set.json").read_text())["groups"]["sw"]["epochs"]
    assert f"Drawn more than 4 times over (epochs): sw ({epochs:.1f})" in said
    # 17,100 bytes of German and 2,300 of Swahili: 0.85 of all of them, drawn from the latter.
    assert epochs == pytest.approx(0.85 * 19_400 / 2_300, rel=0.01)
    assert "Train on out/conversations.jsonl: speculators" in said


def test_conversations_of_both_spellings_become_one(folder):
    turns = [
        [{"from": "human", "value": "Wie?"}, {"from": "gpt", "value": "So."}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Vipi?"},
            {"role": "assistant", "content": "Hivi."},
        ],
    ]
    write_lines(
        folder / "talks.jsonl",
        [
            {"id": "a", "conversations": turns[0], "language": "de"},
            {"messages": turns[1], "language": "sw", "tools": [{"name": "f"}]},
        ],
    )
    out = written(folder, "--data-size", "9", data=["talks.jsonl"])
    rows = load_dataset("json", data_files=str(out / "conversations.jsonl"), split="train")
    roles = {tuple(turn["role"] for turn in row["conversations"]) for row in rows}
    # What a table of both spellings would give: empty roles.
    assert roles == {("user", "assistant"), ("system", "user", "assistant")}
    assert any(row["tools"] for row in rows)
    pairs = load_dataset("json", data_files=str(out / "prompt_completion.jsonl"), split="train")
    assert {row["completion"][0]["content"] for row in pairs} == {"So.", "Hivi."}
    assert not (out / "text.jsonl").exists()


def test_files_hold_nothing_but_what_trainers_read(folder):
    out = written(folder)
    columns = {"conversations": ["conversations"], "messages": ["messages"], "text": ["text"]}
    columns["prompt_completion"] = ["prompt", "completion"]
    for name, expected in columns.items():
        rows = load_dataset("json", data_files=str(out / f"{name}.jsonl"), split="train")
        assert rows.column_names == expected
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{name}.jsonl" for name in columns), "data_set.json", "drawn_rows.jsonl"]
    )


def test_plain_texts_of_a_folder_become_texts(folder):
    (folder / "texts").mkdir()
    for name in ("de", "sw"):
        text = "\n\n".join(f"{name} {number} " + "y" * 20 for number in range(30))
        (folder / "texts" / f"{name}.txt").write_text(text)
    out = written(folder, data=["texts"])
    assert sorted(path.name for path in out.iterdir()) == [
        "data_set.json", "drawn_rows.jsonl", "text.jsonl",
    ]  # fmt: skip
    trace, row = lines(out / "drawn_rows.jsonl")[0], lines(out / "text.jsonl")[0]
    assert row["text"].split()[:2] == [trace["group"], str(trace["number"])]


def test_prompts_that_nobody_answered_are_drawn_by_rows(folder, capsys):
    rows = [{"prompt": f"{g} {n}", "language": g} for g in ("de", "sw") for n in range(50)]
    write_lines(folder / "asked.jsonl", rows)
    out = written(folder, data=["asked.jsonl"])
    manifest = json.loads((out / "data_set.json").read_text())
    assert manifest["unit"] == "rows"
    assert {name: one["rows"] for name, one in manifest["groups"].items()} == {"de": 15, "sw": 85}
    assert "weigh again once the target has answered" in " ".join(capsys.readouterr().out.split())


def test_a_tokenizer_counts_tokens(folder, pair_folder):
    out = written(folder, "--tokenizer", str(pair_folder / "target"))
    assert json.loads((out / "data_set.json").read_text())["unit"] == "tokens"


def test_groups_without_data_and_data_without_a_group_of_the_run(folder, capsys):
    rows = [{"text": f"{g} {n}", "language": g} for g in ("de", "yo") for n in range(20)]
    write_lines(folder / "others.jsonl", rows)
    out = written(folder, data=["others.jsonl"])
    said = " ".join(capsys.readouterr().out.split())
    assert "No data: sw (" in said
    assert "Never measured, so these keep their share: yo" in said
    drawn = json.loads((out / "data_set.json").read_text())["groups"]
    assert set(drawn) == {"de", "yo"}
    former = {"schema_version": 1, "group_by": "language", "shares": {"de": 0.5, "sw": 0.5}}
    (folder / "former.json").write_text(json.dumps(former))
    written(folder, "--mixture", "former.json", data=["others.jsonl"], out="second")
    assert "Left out, with data and neither" in " ".join(capsys.readouterr().out.split())


def test_shares_of_several_groups_count_for_each(folder):
    write_lines(
        folder / "soft.jsonl",
        [{"text": "x" * 30, "group": {"de": 1, "sw": 3}}, {"text": "y" * 30, "group": "deu"}],
    )
    rows = read_rows([folder / "soft.jsonl"], "language")
    assert [row.membership for row in rows] == [(("de", 0.25), ("sw", 0.75)), (("de", 1.0),)]
    by_script = read_rows([folder / "answers.jsonl"], "script")
    assert {row.membership for row in by_script} == {(("deu", 1.0),), (("Swahili", 1.0),)}
    write_lines(
        folder / "said.jsonl", [{"text": "a", "language": "hi"}, {"text": "b", "lang": "de"}]
    )
    by_script = read_rows([folder / "said.jsonl"], "script")
    assert [row.membership for row in by_script] == [(("Deva", 1.0),), (("Latn", 1.0),)]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([{"text": "a"}], "line 1: no group; expected one of the fields language, group, lang"),
        ([{"text": "a", "prompt": "b", "group": "de"}], "expected one of text, prompt,"),
        ([{"text": " ", "group": "de"}], "text must be a text that is not empty"),
        ([{"conversations": ["x"], "group": "de"}], "must be a list of turns"),
        ([{"conversations": [], "group": "de"}], "must be a list of turns"),
        (
            [{"prompt": "a", "response": "b", "group": "de"}, {"prompt": "c", "group": "sw"}],
            "row 2 has no response, others have",
        ),
        ([{"text": "a", "group": "yo"}, {"text": "b", "group": {"de": 0}}], "shares by name"),
    ],
)
def test_data_that_cannot_be_read_are_one_line(rows, line, folder, capsys):
    write_lines(folder / "broken.jsonl", rows)
    assert main(["mixture", "run", "--data", "broken.jsonl"]) == 2
    assert line in refused(capsys)


def test_a_folder_that_holds_something_is_refused(folder, capsys):
    (folder / "out").mkdir()
    (folder / "out" / "mine.txt").write_text("x")
    assert main(["mixture", "run", "--data", "answers.jsonl", "--data-out", "out"]) == 2
    assert "--data-out must be a new or empty folder" in refused(capsys)
    with pytest.raises(ConfigError, match="does not exist"):
        read_rows([folder / "missing"], "language")
