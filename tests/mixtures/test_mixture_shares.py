"""Shares from measurements: closed forms, every rule, what is missing, and what is refused."""

import json

import numpy as np
import pytest

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.mixtures.mixture_file import read_mixture
from lm_eval_specfair.mixtures.mixture_text import render_mixture
from lm_eval_specfair.mixtures.next_shares import SMOOTHING, build_mixture
from lm_eval_specfair.training.weighting import RULES

from support.commands import refused
from support.synthetic_records import generation, write_folder

# Of one request of `generation`: 28 positions.
POSITIONS = 28


def measured_run(folder, overlaps, *, num_documents=8, spread=0.0, **changes):
    """Requests whose overlap is a group's own, spread evenly around it."""
    records = []
    for group, overlap in overlaps.items():
        for number, shift in enumerate(np.linspace(-spread, spread, num_documents)):
            value = (overlap + shift) * POSITIONS
            fields = {"overlap_sum": value, "kl_sum": 2 * (POSITIONS - value)}
            records.append(generation(f"xnli_{group}", number, **(fields | changes)))
    return write_folder(folder, records)


def test_two_groups_by_s_cdf_share_by_the_closed_form(tmp_path):
    run = measured_run(tmp_path / "run", {"de": 0.8, "sw": 0.4})
    # The best group's shifted misfit is 0, so the other one has all but the floor.
    for floor in (0.0, 0.3, 0.5, 1.0):
        found = build_mixture([run], weighting=f"s-cdf:floor={floor}").shares
        assert found == pytest.approx({"sw": 1 - floor / 2, "de": floor / 2})


def test_three_groups_by_s_cdf_share_by_the_distance_from_the_best(tmp_path):
    run = measured_run(tmp_path / "run", {"de": 0.8, "fr": 0.6, "sw": 0.2})
    by_overlap = build_mixture([run], weighting="s-cdf:floor=0.1")
    # e = 1 - overlap: 0.2, 0.4, 0.8; shifted 0, 0.2, 0.6.
    expected = {"de": 0.1 / 3, "fr": 0.9 / 4 + 0.1 / 3, "sw": 0.9 * 3 / 4 + 0.1 / 3}
    assert by_overlap.shares == pytest.approx(expected)
    assert by_overlap.figure == "overlap"
    # KL is twice 1 - overlap here: the same shares, another figure.
    by_kl = build_mixture([run], weighting="s-cdf:floor=0.1,signal=kl")
    assert by_kl.shares == pytest.approx(expected)
    assert by_kl.groups["sw"].measured.value == pytest.approx(1.6)
    assert list(by_kl.groups) == ["sw", "fr", "de"]  # the worst served first


def test_per_byte_counts_the_bytes_of_each_group(tmp_path):
    records = [
        generation(
            f"xnli_{group}",
            number,
            overlap_sum=overlap * POSITIONS,
            num_generated_bytes=size,
            num_generated_chars=size,
        )
        for group, overlap, size in (("de", 0.6, 120), ("sw", 0.4, 60), ("th", 0.5, 30))
        for number in range(8)
    ]
    run = write_folder(tmp_path / "run", records)
    found = build_mixture([run], weighting="s-cdf:floor=0,unit=byte").shares
    # 30 tokens: misfits per byte 0.4 / 4, 0.6 / 2, 0.5 / 1.
    assert found == pytest.approx({"de": 0.0, "sw": 0.2 / 0.6, "th": 0.4 / 0.6})


def test_cvar_takes_the_worst_share_of_the_groups(tmp_path):
    run = measured_run(tmp_path / "run", {"de": 0.8, "fr": 0.6, "sw": 0.2, "th": 0.3})
    found = build_mixture([run], weighting="cvar:share=0.5,floor=0.2").shares
    assert found == pytest.approx({"de": 0.05, "fr": 0.05, "sw": 0.45, "th": 0.45})


def test_a_step_of_dro_moves_the_former_shares(tmp_path):
    run = measured_run(tmp_path / "run", {"de": 0.8, "sw": 0.4})
    former = tmp_path / "former.json"
    shares = {"de": 0.75, "sw": 0.25}
    former.write_text(json.dumps({"schema_version": 1, "group_by": "language", "shares": shares}))
    found = build_mixture([run], weighting="dro:rate=2", former=read_mixture(former))
    grown = {"de": 0.75 * np.exp(2 * 0.2), "sw": 0.25 * np.exp(2 * 0.6)}
    total = sum(grown.values())
    assert found.shares == pytest.approx({name: x / total for name, x in grown.items()})
    assert found.groups["sw"].before == 0.25


def test_every_rule_either_makes_shares_or_says_in_one_line_why_not(tmp_path):
    run = measured_run(tmp_path / "run", {"de": 0.8, "fr": 0.6, "sw": 0.2})
    for rule, entry in RULES.items():
        refusal = "name --data" if entry.reads_tokens or rule == "constrained" else ""
        refusal = "negative weight" if rule in ("signed", "variance") else refusal
        if refusal:
            with pytest.raises(ConfigError, match=refusal):
                build_mixture([run], weighting=rule)
            continue
        found = build_mixture([run], weighting=rule)
        assert sum(found.shares.values()) == pytest.approx(1)
        assert min(found.shares.values()) >= 0
    made = build_mixture([run], weighting="constrained:dominant=de")
    assert made.shares["sw"] > made.shares["fr"]


def test_misfit_is_a_mean_over_rounds_and_remembered_by_name(tmp_path):
    overlaps = [{"de": 0.8, "sw": 0.4}, {"de": 0.7, "sw": 0.6, "th": 0.5}]
    runs = [measured_run(tmp_path / f"run{n}", each) for n, each in enumerate(overlaps)]
    first = build_mixture([runs[0]])
    path = tmp_path / "first.json"
    path.write_text(first.file.to_json())
    second = build_mixture([runs[1]], former=read_mixture(path))
    assert second.number == 2
    expected = {
        "de": SMOOTHING * 0.2 + (1 - SMOOTHING) * 0.3,
        "sw": SMOOTHING * 0.6 + (1 - SMOOTHING) * 0.4,
        "th": 0.5,  # never measured before
    }
    assert {n: g.misfit for n, g in second.groups.items()} == pytest.approx(expected)
    assert second.groups["th"].before == 0
    other = build_mixture([runs[1]], weighting="s-cdf:signal=kl", former=read_mixture(path))
    assert other.restarted
    assert other.groups["sw"].misfit == pytest.approx(0.8)


def test_acceptance_stands_for_an_overlap_that_nobody_measured(tmp_path):
    nothing = dict.fromkeys(
        [
            "overlap_sum", "kl_sum", "cross_entropy_sum", "target_entropy_sum",
            "num_distribution_positions", "num_infinite_positions",
        ]
    )  # fmt: skip
    counts = {"de": 24, "sw": 12}
    records = [
        generation(f"xnli_{group}", n, num_accepted_draft_tokens=accepted, **nothing)
        for group, accepted in counts.items()
        for n in range(8)
    ]
    run = write_folder(tmp_path / "run", records)
    found = build_mixture([run])
    assert found.figure == "conditional_acceptance_rate"
    assert found.shares == pytest.approx({"de": 0.15, "sw": 0.85})
    assert "stands for the overlap" in render_mixture(found, "md")
    with pytest.raises(ConfigError, match="with kl measured, got none"):
        build_mixture([run], weighting="s-cdf:signal=kl")


def test_groups_that_cannot_be_placed_are_named(tmp_path):
    records = []
    for group, overlap, spread, documents in (
        ("de", 0.8, 0.0, 8), ("sw", 0.4, 0.0, 8), ("fr", 0.6, 0.4, 8), ("th", 0.3, 0.0, 2),
    ):  # fmt: skip
        for number, shift in enumerate(np.linspace(-spread, spread, documents)):
            total = min(1.0, overlap + shift) * POSITIONS
            records.append(generation(f"xnli_{group}", number, overlap_sum=total))
    found = build_mixture([write_folder(tmp_path / "run", records)])
    assert found.uncertain == ["fr"]
    assert found.unmeasured == {"th": 2}
    text = " ".join(render_mixture(found, "table").split())
    assert "Too few documents to place fr among the groups" in text
    assert "Not weighed, with too few requests or nothing that the rule reads (n): th (2)" in text


def test_a_group_that_was_never_measured_keeps_its_former_share(tmp_path):
    run = measured_run(tmp_path / "run", {"de": 0.8, "sw": 0.4})
    former = tmp_path / "former.json"
    shares = {"de": 0.5, "sw": 0.2, "ha": 0.3}
    former.write_text(json.dumps({"schema_version": 1, "group_by": "language", "shares": shares}))
    found = build_mixture([run], weighting="s-cdf:floor=0.5", former=read_mixture(former))
    assert found.shares == pytest.approx({"de": 0.7 * 0.25, "sw": 0.7 * 0.75, "ha": 0.3})
    assert found.kept == pytest.approx({"ha": 0.3})
    assert "Never measured, so these keep their share: ha" in render_mixture(found, "md")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--weighting", "s-cdf:apply=loss"], "a mixture can only draw data"),
        (["--weighting", "signed"], "cannot be drawn by a negative weight"),
        (["--weighting", "mix"], "which is not known of de, sw: name --data"),
        (["--weighting", "none"], "weighting must be one of s-cdf"),
        (["--group-by", "domain"], "no request says anything about 'domain'"),
        (["--data-out", "new"], "--data-out needs the data"),
        (["--tokenizer", "embedded"], "no data were named"),
        (["--mixture", "broken.json"], "it looks like"),
        (["--mixture", "heavy.json"], "add up to 1, got 1.5"),
        (["--mixture", "other.json"], "groups by domain, expected language"),
        (["--min-requests", "99"], "expected at least two groups"),
    ],
)
def test_wrong_input_is_one_line(words, line, tmp_path, monkeypatch, capsys):
    measured_run(tmp_path / "run", {"de": 0.8, "sw": 0.4})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text('{"shares": []}')
    for name, group_by, shares in (
        ("heavy", "language", {"de": 1.0, "sw": 0.5}),
        ("other", "domain", {"de": 0.5, "sw": 0.5}),
    ):
        fields = {"schema_version": 1, "group_by": group_by, "shares": shares}
        (tmp_path / f"{name}.json").write_text(json.dumps(fields))
    assert main(["mixture", "run", *words]) == 2
    assert line in refused(capsys)


def test_what_is_printed_and_written_agree(tmp_path, capsys):
    run = measured_run(tmp_path / "run", {"de": 0.8, "fr": 0.6, "sw": 0.4})
    path = tmp_path / "mixture.json"
    assert main(["mixture", str(run), "-o", str(path), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = read_mixture(path)
    assert printed["shares"] == pytest.approx(written.shares)
    assert written.measured["sw"]["value"] == printed["groups"]["sw"]["measured"]["value"]
    for form in ("table", "md", "csv"):
        assert main(["mixture", str(run), "--format", form]) == 0
        assert "sw" in capsys.readouterr().out
