"""Drafters for clusters of groups: who is put together, what each learns from, what a run does.

python -m pytest tests/fitting/test_cluster_training.py
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.fitting.similar_groups import ServedGroups, read_clusters, read_served
from lm_eval_specfair.records.policy_file import read_policy
from lm_eval_specfair.training.data.items import Item, restricted

from support.evaluations import evaluate, hf, records_of, specfair, texts, toy_task
from support.training_runs import fresh_accelerate, write_lines

RESULTS = Path(__file__).resolve().parents[2] / "results"
# Enough to part the drafters from each other, and from the one that they begin from.
SMALL = {"tokens": 1152, "rows": 6, "length": 16, "probe_rows": 2, "weighting": "balanced"}
SMALL |= {"learning_rate": 3e-3, "tolerance": 1.0}
LANGUAGES = ("de", "en", "sw")


@pytest.fixture(autouse=True)
def accelerate():
    fresh_accelerate()


@pytest.fixture
def data(tmp_path):
    rows = [
        {"text": f"{code} word {number} " * 3, "group": code, "item": number}
        for number in range(20)
        for code in LANGUAGES
    ]
    return write_lines(tmp_path / "data.jsonl", rows)


def served(values) -> ServedGroups:
    names = tuple("abcdefgh"[: len(values)])
    runs = tuple(f"run{n}" for n in range(np.shape(values)[1]))
    return ServedGroups(names=names, runs=runs, acceptance=np.array(values, dtype=float))


def within(groups: ServedGroups, clusters) -> float:
    """Squares around the clusters' means, added up: what Ward's method makes small."""
    rows = [[groups.names.index(name) for name in members] for members in clusters]
    parts = [groups.acceptance[places] for places in rows]
    return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts))


def partitions(names, number):
    """All ways to put names into so many clusters."""
    for labels in itertools.product(range(number), repeat=len(names)):
        if len(set(labels)) == number:
            yield [
                [n for n, own in zip(names, labels, strict=True) if own == k] for k in set(labels)
            ]


@pytest.mark.parametrize("per_drafter", [1, 2, 3, 4, 9])
def test_groups_that_are_served_alike_share_a_cluster(per_drafter):
    # Three tight clusters, far apart.
    groups = served([[0.1, 0.9], [0.12, 0.9], [0.5, 0.1], [0.52, 0.1], [0.9, 0.9], [0.9, 0.88]])
    clusters = groups.clusters(per_drafter)
    number = -(-6 // per_drafter)
    assert list(clusters) == [f"cluster-{n}" for n in range(1, number + 1)]
    assert sorted(itertools.chain.from_iterable(clusters.values())) == list("abcdef")
    best = min(within(groups, each) for each in partitions(groups.names, number))
    assert within(groups, clusters.values()) == pytest.approx(best)


def test_a_single_group_is_a_cluster():
    assert served([[0.3]]).clusters(4) == {"cluster-1": ["a"]}


def test_acceptance_is_that_of_each_run_by_group():
    runs = [RESULTS / "drafters" / "embedded", RESULTS / "drafters" / "embedded-fair"]
    found = read_served(runs, ["de", "ja", "uk", "xx"])
    assert found.names == ("de", "ja", "uk")
    for place, run in enumerate(runs):
        expected = sf.report(run).by_group["conditional_acceptance_rate"]
        assert found.acceptance[:, place] == pytest.approx([expected[n] for n in found.names])


def test_texts_keep_their_shares_of_the_groups_that_are_learnt_from():
    items = [
        Item(item="1", membership=(("de", 0.5), ("en", 0.3), ("sw", 0.2)), response="x"),
        Item(item="2", membership=(("sw", 1.0),), response="y"),
    ]
    (kept,) = restricted(items, {"de", "en"})
    assert dict(kept.membership) == pytest.approx({"de": 0.625, "en": 0.375})


@pytest.mark.slow
def test_each_cluster_learns_from_its_groups_alone_and_a_run_routes_to_it(
    pair_folder, data, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    clusters = tmp_path / "clusters.json"
    clusters.write_text(json.dumps({"north": ["de", "en"], "south": ["sw"]}))
    pair = {"target": str(pair_folder / "target"), "drafter": str(pair_folder / "drafter")}
    found = sf.train(data, tmp_path / "out", groups_per_drafter=clusters, **pair, **SMALL)

    assert list(found["groups"]) == ["de", "en", "sw"]
    assert found["clusters"] == {"north": ["de", "en"], "south": ["sw"]}
    settings = {
        name: json.loads((tmp_path / "out" / name / "train.json").read_text())
        for name in ("north", "south")
    }
    assert {name: one["groups"] for name, one in settings.items()} == found["clusters"]
    # The budget is shared out by groups.
    assert {name: one["tokens"] for name, one in settings.items()} == {"north": 768, "south": 384}
    # A cluster's drafter is the one that a training on its texts alone makes.
    fresh_accelerate()
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    own = write_lines(tmp_path / "own.jsonl", [row for row in rows if row["group"] != "sw"])
    sf.train(own, tmp_path / "alone", **pair, **{**SMALL, "tokens": 768})
    weights = [tmp_path / folder / "model.safetensors" for folder in ("out/north", "alone")]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    policy = read_policy(tmp_path / "out" / "policy.json")
    assert policy.drafters == {"de": "north", "en": "north", "sw": "south"}
    assert policy.default_drafter == str(pair_folder / "drafter")
    # A run takes the policy: texts are the target's own, counts those of each one's drafter.
    documents = [
        {"prompt": f"{code} word {number}", "reference": "", "language": code}
        for number in range(3)
        for code in (*LANGUAGES, "fr")
    ]
    task = [toy_task("toy", documents)]
    plain = texts(evaluate(hf(pair_folder), task), "toy")
    counts = {}
    for name in ("policy.json", "north", "south", pair["drafter"]):
        folder = tmp_path / "runs" / name.rpartition("/")[2]
        model = specfair(pair_folder, folder, drafter=str(tmp_path / "out" / name), batch_size=4)
        assert texts(evaluate(model, task), "toy") == plain
        found_records = sorted(records_of(folder).values(), key=lambda record: record.doc_id)
        counts[name] = [record.accepted_per_step for record in found_records]
    by_language = {"de": "north", "en": "north", "sw": "south", "fr": pair["drafter"]}
    expected = [
        counts[by_language[document["language"]]][place] for place, document in enumerate(documents)
    ]
    assert counts["policy.json"] == expected
    assert len({str(each) for each in counts.values()}) == len(counts)  # so each is told apart
    # Nothing is made twice.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    fresh_accelerate()
    again = sf.train(
        data, tmp_path / "out", groups_per_drafter=clusters, resume=True, **pair, **SMALL
    )
    assert again["groups"] == found["groups"]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    clusters.write_text(json.dumps({"north": ["de"], "south": ["en", "sw"]}))
    with pytest.raises(ConfigError, match=r"clusters\.json has others"):
        sf.train(data, tmp_path / "out", groups_per_drafter=clusters, resume=True, **pair, **SMALL)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--groups-per-drafter", "2"], "name them with --served-alike"),
        (["--groups-per-drafter", "0"], "expected a whole number of at least 1"),
        (["--groups-per-drafter", "nowhere"], "expected a file or a folder"),
        (["--groups-per-drafter", "clusters.json"], "names fr, of which the data have no text"),
        (["--groups-per-drafter", "twice.json"], "'de' is in two"),
        (["--groups-per-drafter", "path.json"], "a cluster's name becomes a folder's"),
        (["--groups-per-drafter", "empty.json"], "a cluster has no group"),
        (["--groups-per-drafter", "data.jsonl"], "must be a whole number or a file such as"),
        (["--served-alike", "data.jsonl"], "pass --groups-per-drafter too"),
        (["--groups-per-drafter", "2", "--kind", "eagle3"], "trains drafting models"),
        (
            ["--groups-per-drafter", "2", "--served-alike", "{run}", "--group-by", "script"],
            "got groups",
        ),
    ],
)
def test_bad_clusters_end_with_one_line(data, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "clusters": {"a": ["de", "fr"]},
        "twice": {"a": ["de"], "b": ["de", "en"]},
        "path": {"../a": ["de"]},
        "empty": {"a": []},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    words = [word.format(run=RESULTS / "drafters" / "embedded") for word in more]
    assert main(["train", "--data", str(data), "-o", "out", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_clusters_that_somebody_wrote_are_read(tmp_path):
    file = tmp_path / "clusters.json"
    file.write_text('{"west": ["de", "en"], "east": ["ja"]}')
    assert read_clusters(file) == {"west": ["de", "en"], "east": ["ja"]}
