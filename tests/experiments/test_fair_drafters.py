"""The comparison of objectives (experiments/fair): figures by hand, what is learnt from, claims."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer

from support.synthetic_records import generation, write_folder

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "fair"))
from ceiling import SUITE, counts_of_arm
from comparison import COUNTS, Comparison, by_language
from counts import counts_of, read_counts, refuse_others, write_counts
from fair_drafters import step_cost, without_places
from reading import CONTEXT, LENGTH, counts_of_rows, heldout_rows
from reading import _counts as counts_read
from texts import corpus_rows, heldout_prompts, udhr_prompts, write_texts


def counts(**of) -> np.ndarray:
    return np.array([of.get(name, 0.0) for name in COUNTS], dtype=float)


def arm(speedups: list[float], kls: list[float], documents: int = 6, seeds: int = 2) -> np.ndarray:
    """Documents of a language that are all alike, so that nothing is noise."""
    rows = [
        counts(
            steps=10, accepted=10 * s - 10, kl=20 * k, positions=20, overlap=10, tokens=8, bytes=32
        )
        for s, k in zip(speedups, kls, strict=True)
    ]
    return np.broadcast_to(np.stack(rows), (seeds, documents, len(rows), len(COUNTS))).copy()


def compared(**arms: np.ndarray) -> Comparison:
    return Comparison(arms, ["en", "he", "th"], 1.0, "en")


def test_figures_are_those_worked_by_hand():
    found = by_language(
        counts(steps=4, accepted=6, overlap=3, kl=10, positions=5, tokens=8, bytes=20), 2
    )
    assert found["speedup"] == pytest.approx((1 + 6 / 4) / 2)
    assert found["kl"] == pytest.approx(2)
    assert found["kl_byte"] == pytest.approx(2 * 8 / 20)
    assert found["overlap"] == pytest.approx(0.6)
    assert found["bytes"] == pytest.approx(5)


def test_without_noise_changes_are_exact_and_intervals_are_points():
    found = compared(start=arm([2, 1, 3], [1, 2, 3]), mix=arm([2, 2, 2], [1, 1.5, 2]))
    change = found.change("mix", "start", "unfairness_kl")
    # The variance of 1, 2, 3 is 2/3, of 1, 1.5, 2 a quarter of it.
    assert change == pytest.approx({"value": -0.75, "low": -0.75, "high": -0.75})
    assert found.change("mix", "start", "worst_speedup")["value"] == pytest.approx(1)
    assert found.of("start")[0]["ratio_speedup"] == pytest.approx(1 / 3)


def test_the_order_per_byte_can_be_the_reverse_of_that_per_token():
    each = arm([1, 2, 3], [1, 1, 1])
    each[..., COUNTS.index("bytes")] *= np.array([9, 3, 1])
    row = compared(start=each).order().splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "start",
        "en, he, th",
        "th, he, en",
        "-1.00",
    ]


def test_noise_is_taken_off_the_variance():
    """Languages that are alike but for noise: U is near 0, where the plain variance is not."""
    generator = np.random.default_rng(1)
    each = arm([2, 2, 2], [1, 1, 1], documents=12, seeds=40)
    each[..., COUNTS.index("kl")] += 20 * generator.normal(0, 0.5, each.shape[:-1])
    plain = by_language(each.sum(1), 1.0)["kl"].var(-1).mean()
    corrected = compared(start=each).of("start")[0]["unfairness_kl"]
    assert plain == pytest.approx(0.25 / 12 * 2 / 3, rel=0.4)  # (m - 1)/m of a mean's variance
    assert corrected < 0.65 * plain  # what falls below 0 is 0, so not all of it goes


def test_each_part_of_the_claim_can_fail_alone():
    base = {
        "start": arm([1, 1, 1], [1, 3, 5]),
        "mix": arm([2, 1.5, 2], [1, 2, 4]),
        "balanced": arm([2, 1.6, 2], [1, 2, 3]),
    }
    good = arm([2, 1.8, 2], [2, 2.2, 2.5])
    dominant = good.copy()
    dominant[:, :, 0, COUNTS.index("overlap")] = 9.6
    kls = [2, 2.2, 2.5]
    uncertain = np.concatenate([arm([2, 1.4, 2], kls, seeds=1), arm([2, 2.2, 2], kls, seeds=1)])
    arms = {
        "good": (good, "abcde"),
        "uncertain": (uncertain, "acde"),
        "unfair": (arm([2, 1.8, 2], [1, 2, 4]), "bcde"),
        "slow": (arm([1.7, 1.7, 1.7], [2, 2.2, 2.5]), "abd"),
        "dominant": (dominant, "abce"),
    }
    found = Comparison(
        base | {name: each for name, (each, _) in arms.items()}, ["en", "he", "th"], 1.0, "en"
    )
    for name, (_, expected) in arms.items():
        holds = "".join(part for part, well in found.claims(name).items() if well)
        assert holds == expected, name


def test_seeds_widen_the_intervals():
    alike = arm([2, 2, 2], [1, 1, 1])
    apart = alike.copy()
    apart[1, ..., COUNTS.index("accepted")] += 10
    found = compared(start=alike, mix=apart)
    change = found.change("mix", "start", "mean_speedup")
    assert change["value"] == pytest.approx(0.25)
    assert (change["low"], change["high"]) == pytest.approx((0, 0.5))


@pytest.fixture
def corpus(tmp_path) -> Path:
    """One page in two languages is held out in one of them; Firefox's paths hold the language."""
    rows = {
        "train/he": [("firefox", "browser/chrome/he/locale/a.properties", "held out in th")],
        "train/th": [("firefox", f"page{n}.ftl", f"text {n}") for n in range(40)],
        "heldout/he": [("firefox", "long.ftl", "abcdefgh" * 8), ("firefox", "b.ftl", "12345678")],
        "heldout/th": [("firefox", "browser/chrome/th/locale/a.properties", "12345678")],
    }
    for name, found in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        keys = ("source", "file", "text")
        path.write_text("\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in found))
    return tmp_path


def test_what_is_held_out_in_one_language_is_learnt_from_in_none(corpus, tmp_path):
    out = tmp_path / "texts.jsonl"
    write_texts(corpus, ["he", "th"], 1.0, out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["group"] for row in rows] == ["th"] * 40
    held = {item for code in ("he", "th") for item, _ in corpus_rows(corpus, "heldout", code)}
    assert not held & {row["item"] for row in rows}


def test_a_share_is_of_files_and_the_same_in_each_call(corpus, tmp_path):
    parts = []
    for name, share in (("some", 0.5), ("again", 0.5), ("all", 1.0)):
        write_texts(corpus, ["he", "th"], share, tmp_path / name)
        parts.append((tmp_path / name).read_text().splitlines())
    some, again, everything = parts
    assert some == again
    assert set(some) < set(everything)
    assert 10 <= len(some) <= 30


def test_prompts_come_from_all_files_before_one_gives_two(corpus):
    prompts = heldout_prompts(corpus, "he", byte_tokenizer(), 3, 8)
    assert prompts == ["abcdefgh", "12345678", "abcdefgh"]


def test_the_declaration_is_read_as_utf_8(tmp_path):
    (tmp_path / "tha.html").write_text(
        "<html><p>ก ข</p><p>ทุกคน   เกิดมา</p></html>", encoding="utf-8"
    )
    assert udhr_prompts(tmp_path, "th", byte_tokenizer(), 2, 16) == ["ทุกคน"]


def test_a_request_that_failed_counts_nowhere(tmp_path):
    timed = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30}
    records = [
        generation("heldout_sw", 0, **timed),
        generation("heldout_sw", 1, failure="scores were no numbers", decode_seconds=60.0, **timed),
    ]
    folder = write_folder(tmp_path / "run", records)

    first, second = counts_of(folder, "heldout", ["sw"], documents=2)[:, 0]
    assert first.tolist() == [10, 20, 21, 14, 28, 30, 90]
    assert second.tolist() == [0] * len(COUNTS)
    # .6 s in 10 steps, .9 s for 30 plain tokens.
    assert step_cost(folder) == pytest.approx(2.0)


def test_expected_counts_of_a_text_are_sums_of_products_of_overlaps():
    a, b, c = 0.5, 0.25, 0.8
    [found] = counts_read(torch.tensor([[a, b, c]]), torch.tensor([[1.0, 2.0, 4.0]]), 2)
    # Steps begin at the first or second position and draft two tokens.
    accepted = a + a * b + b + b * c
    expected = counts(
        steps=2, accepted=accepted, overlap=1.55, kl=7, positions=3, tokens=2 + accepted
    )
    assert found == pytest.approx(expected)


def test_a_drafter_that_is_the_target_accepts_all_it_reads(target):
    ids = byte_tokenizer().encode("abcdefgh" * LENGTH, add_special_tokens=False)
    rows = torch.tensor(ids[: 3 * LENGTH]).reshape(3, LENGTH)
    found = counts_of_rows(target, target, byte_tokenizer(), rows, 4)
    figures = by_language(found.sum(0), 1.0)
    assert figures["speedup"] == pytest.approx(5)
    assert figures["bytes"] == pytest.approx(5)  # a token of this tokenizer is a byte
    assert figures["overlap"] == pytest.approx(1)
    assert figures["kl"] == pytest.approx(0, abs=1e-6)
    assert found[0, COUNTS.index("positions")] == LENGTH - CONTEXT - 1


def test_rows_to_read_lie_in_held_out_files_and_may_not_be_fewer_than_asked(tmp_path):
    (tmp_path / "heldout").mkdir()
    lines = [
        json.dumps({"source": "s", "file": name, "text": text * LENGTH})
        for name, text in (("f", "ab"), ("g", "cd"))
    ]
    (tmp_path / "heldout" / "en.jsonl").write_text("\n".join(lines))

    rows = heldout_rows(tmp_path, "en", byte_tokenizer(), 4)
    assert rows.shape == (4, LENGTH)
    assert len({tuple(row) for row in rows.tolist()}) == 2
    with pytest.raises(ValueError, match="en: expected 5 rows of held-out text, got 4"):
        heldout_rows(tmp_path, "en", byte_tokenizer(), 5)


def test_published_counts_come_back(tmp_path):
    generator = np.random.default_rng(0)
    runs = {("mix", seed): generator.uniform(0, 1e4, (5, 2, len(COUNTS))) for seed in (0, 2)}
    write_counts(tmp_path, {"suite": runs}, ["en", "he"])
    found = read_counts(tmp_path, ["en", "he"])
    assert found.keys() == {"suite"}
    assert found["suite"].keys() == runs.keys()
    for run, each in runs.items():
        np.testing.assert_allclose(found["suite"][run], each, rtol=1e-5)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"suite": {("start", 0): 1.0}}, None),
        ({"suite": {("start", 0): 1.000000001}}, None),  # beyond the digits that are published
        ({"suite": {("start", 0): 1.0001}}, "suite: the counts of `start` differ"),
        ({"suite": {("mix", 0): 1.0}}, "suite: `start` is needed on both sides"),
        ({"other": {("start", 0): 1.0}}, "`start` is needed on both sides"),
    ],
)
def test_runs_on_record_are_compared_only_if_the_start_agrees(there, said):
    def counts_like(runs):
        return {
            suite: {run: np.full((3, 2, len(COUNTS)), value) for run, value in each.items()}
            for suite, each in runs.items()
        }

    here = counts_like({"suite": {("start", 0): 1.0, ("mix", 0): 2.0}})
    if said is None:
        refuse_others(here, counts_like(there), "start")
    else:
        with pytest.raises(ValueError, match=said):
            refuse_others(here, counts_like(there), "start")


def test_published_runs_name_no_place_of_a_machine():
    place = "/home/me/checkout/lm_eval_specfair/embedded"
    given = f'"pretrained={place}/target,drafter={place}/drafter", "/another/place"'
    expected = '"pretrained=embedded/target,drafter=embedded/drafter", "/another/place"'
    assert without_places(given) == expected


def test_an_arm_on_record_is_found_by_language_and_seed():
    runs = {("mix", seed): np.zeros((3, 2, len(COUNTS))) + seed for seed in (0, 1)}
    runs["mix", 1][2, 1, COUNTS.index("accepted")] = 7
    found = counts_of_arm({SUITE: {**runs, ("start", 0): runs["mix", 0]}}, "mix", 1)
    assert found.tolist() == [[[0, 0]] * 3, [[1, 1], [1, 1], [1, 7]]]
