"""Sums by document: what is put together, what is drawn together, what costs are told apart."""

from pathlib import Path

import numpy as np
import pytest

from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.metrics.aggregate import clusters as blocks_module
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.aggregate.sums import COLUMNS, Sums
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.definitions.rates import POSITIONS
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import MEAN_ACCEPTANCE_LENGTH
from lm_eval_specfair.metrics.statistics.bootstrap import resample
from lm_eval_specfair.metrics.statistics.bootstrap_estimate import bootstrap_estimate
from lm_eval_specfair.metrics.summary import summarise
from lm_eval_specfair.records import Settings, read_records
from lm_eval_specfair.reporting.report.build_report import build_summary

from support.synthetic_records import addends, generation, scored, simulated, write_folder

PER_DOCUMENT = "_per_document.denominator"
BY_NAME = {metric.name: metric for metric in (*METRICS, *POSITIONS, *BOUNDS)}


def aggregate(records, min_requests=1):
    aggregator = Aggregator("language")
    for record in records:
        aggregator.add(record, TaskFacts(record.task))
    return aggregator.aggregate(min_requests)


def of_settings(gamma, temperature=0.0):
    return Settings(num_speculative_tokens=gamma, temperature=temperature, top_k=None, top_p=None)


def test_sums_are_those_of_the_records_one_by_one():
    generator = np.random.default_rng(0)
    records = [
        simulated("specfair_demo_sw", d // 2, 0.6, generator, baseline=d % 3 == 0) for d in range(9)
    ]
    records += [simulated("specfair_demo_fr", d, 0.7, generator) for d in range(5)]
    counted = aggregate(records)
    totals = dict(
        zip(counted.numbers, np.concatenate([b.sum(0) for b in counted.blocks]), strict=True)
    )

    for group, task in (("sw", "specfair_demo_sw"), ("fr", "specfair_demo_fr")):
        expected = np.sum([addends(each) for each in records if each.task == task], axis=0)
        # Two requests of a document are one document.
        expected[[n for n, name in enumerate(COLUMNS) if name.endswith(PER_DOCUMENT)]] = 5
        assert totals[group] == pytest.approx(expected)
    assert counted.counts.documents == 10


def test_very_many_documents_are_drawn_in_units_with_the_same_interval(monkeypatch):
    generator = np.random.default_rng(0)
    records = [simulated("specfair_demo_sw", d, 0.6, generator) for d in range(900)]
    whole = aggregate(records).blocks
    monkeypatch.setattr(blocks_module, "MAX_UNITS", 150)
    few = aggregate(records).blocks

    assert (len(whole[0]), len(few[0])) == (900, 150)
    assert few[0].sum(0) == pytest.approx(whole[0].sum(0))
    a, b = (
        bootstrap_estimate(
            resample(each, np.random.default_rng(1)), MEAN_ACCEPTANCE_LENGTH, 0
        ).estimate
        for each in (whole, few)
    )
    assert a.value == b.value
    assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.2)


def test_units_hold_the_same_documents_in_every_group_and_run(monkeypatch):
    monkeypatch.setattr(blocks_module, "MAX_UNITS", 7)
    records = [
        generation(task, d, num_accepted_draft_tokens=d)
        for task in ("specfair_demo_sw", "specfair_demo_fr")
        for d in range(40)
    ]
    (one,) = aggregate(records).blocks
    (other,) = aggregate(records[::-1]).blocks

    assert one.shape[:2] == (7, 2)
    assert (one[:, 0] == one[:, 1]).all()
    assert (one == other).all()


def test_groups_that_share_documents_count_them_once_in_the_whole():
    aggregator = Aggregator("kind")
    for d in range(10):  # even documents belong to two groups
        kinds = ["all"] if d % 2 else ["all", "even"]
        aggregator.add(generation("t", d, group_fields={"kind": kinds}), TaskFacts("t"))
    counted = aggregator.aggregate(1)
    resampled = resample(counted.blocks, np.random.default_rng(0))

    assert counted.numbers == {"all": 0, "even": 1}
    assert counted.requests == {"all": 10, "even": 5}
    assert not counted.is_parallel
    assert Sums(resampled.observed.sum(0))["requests"] == 10
    assert (Sums(resampled.run_replicates)["requests"] == 10).all()
    assert bootstrap_estimate(resampled, MEAN_ACCEPTANCE_LENGTH, 1).estimate.n == 5


def test_what_is_not_compared_is_one_column():
    sizes = {"sw": 4, "fr": 3, "de": 3}
    records = [generation(f"specfair_demo_{tag}", d) for tag, n in sizes.items() for d in range(n)]
    counted = aggregate(records, min_requests=4)

    assert (counted.compared, counted.numbers) == (["sw"], {"sw": 0})
    assert [block.shape[:2] for block in counted.blocks] == [(4, 1), (6, 1)]


def test_a_step_costs_what_steps_of_its_settings_cost(tmp_path):
    # Swahili drafts 4 tokens at .06 s a step, French 1 token at .03 s; a plain step takes .03 s.
    paired = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30}
    french = {
        "settings": of_settings(1),
        "num_draft_tokens": 10,
        "num_accepted_draft_tokens": 5,
        "num_examined_draft_tokens": 10,
        "num_generated_tokens": 15,
        "acceptance_histogram": [5, 5],
        "decode_seconds": 0.3,
        "draft_seconds": 0.1,
        "verify_seconds": 0.15,
        "baseline_seconds": 0.45,
        "baseline_generated_tokens": 15,
    }
    records = [generation("specfair_demo_sw", d, **paired) for d in range(6)]
    records += [generation("specfair_demo_fr", d, **french) for d in range(6)]
    summary = build_summary([write_folder(tmp_path / "run", records)])

    # 3 tokens for 2 plain steps and 1.5 for 1; one pooled cost would give 3 / 1.5 and 1.5 / 1.5.
    for group in ("sw", "fr"):
        assert summary.groups[group]["modelled_speedup"].value == pytest.approx(1.5)
    assert summary.overall["modelled_speedup"].value == pytest.approx(1.5)
    # Drafting costs .1 s for 40 tokens in one group and for 10 in the other: c is pooled.
    c = (0.1 + 0.1) / (40 + 10) / 0.03
    assert summary.groups["fr"]["textbook_speedup"].value == pytest.approx(1.5 / (1 + c))


def test_a_group_decoded_plainly_has_a_modelled_speedup_of_one(tmp_path):
    paired = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30}
    plain = {
        "settings": of_settings(0),
        "num_draft_tokens": 0,
        "num_accepted_draft_tokens": 0,
        "num_examined_draft_tokens": 0,
        "num_spec_steps": 30,
        "acceptance_histogram": [30],
        "decode_seconds": 0.9,
    }
    records = [generation("specfair_demo_sw", d, **paired) for d in range(6)]
    records += [generation("specfair_demo_fr", d, **plain) for d in range(6)]
    summary = build_summary([write_folder(tmp_path / "run", records)])

    assert summary.groups["fr"]["modelled_speedup"].value == 1
    assert summary.groups["sw"]["modelled_speedup"].value == pytest.approx(1.5)
    assert summary.disparity["modelled_speedup"].worst == "fr"


def test_settings_that_were_never_timed_have_no_modelled_speedup(tmp_path):
    paired = {"baseline_seconds": 0.9, "baseline_generated_tokens": 30}
    records = [generation("specfair_demo_sw", d, **paired) for d in range(6)]
    records += [generation("specfair_demo_fr", d, settings=of_settings(2)) for d in range(6)]
    summary = build_summary([write_folder(tmp_path / "run", records)])

    assert summary.groups["fr"]["modelled_speedup"] is None
    assert summary.groups["sw"]["modelled_speedup"] is not None


def positions(record):
    sums = Sums(addends(record))
    return [
        (
            float(BY_NAME[f"conditional_acceptance_at_{i}"].evaluate(sums, sums)),
            float(BY_NAME[f"acceptance_at_{i}"].evaluate(sums, sums)),
        )
        for i in range(1, 6)
    ]


def test_acceptance_by_position_by_hand():
    # Four steps of up to 3 drafts: none kept; two kept; all three kept; one drafted and kept.
    record = generation(
        "t",
        0,
        settings=of_settings(3),
        num_spec_steps=4,
        num_draft_tokens=10,
        num_accepted_draft_tokens=6,
        num_examined_draft_tokens=8,
        acceptance_histogram=[1, 1, 1, 1],
        drafted_per_step=[3, 3, 3, 1],
        accepted_per_step=[0, 2, 3, 1],
    )

    # Examined: 4 first drafts, 2 second, 2 third; kept: 3, 2 and 1.
    assert positions(record)[:3] == [(3 / 4, 3 / 4), (1, 2 / 4), (1 / 2, 1 / 4)]
    assert np.isnan(positions(record)[3:]).all()


def test_bits_per_byte_are_those_of_the_right_choice(tmp_path):
    records = []
    for doc_id in range(6):
        records.append(generation("xnli_sw", doc_id, num_generated_tokens=None))
        for place, (bits, is_right) in enumerate([(100, True), (900, False), (400, False)]):
            records.append(
                scored(
                    "xnli_sw",
                    doc_id,
                    request_id=f"{doc_id}/{place}",
                    target_nll_sum=bits * np.log(2).item(),
                    drafter_nll_sum=2 * bits * np.log(2).item(),
                    is_right_choice=is_right,
                )
            )
    summary = build_summary([write_folder(tmp_path / "run", records)])

    bits = summary.groups["sw"]["bits_per_byte"]
    assert (bits.value, bits.n) == (pytest.approx(2.0), 6)
    assert summary.groups["sw"]["drafter_bits_per_byte"].value == pytest.approx(4.0)
    counts = summary.counts
    assert (counts.requests, counts.generated_requests, counts.scored_requests) == (24, 6, 18)


def test_a_draft_behind_the_end_was_not_examined():
    # The last step kept its first draft, which ended the text: the second was not looked at.
    ended = generation(
        "t",
        0,
        settings=of_settings(2),
        num_spec_steps=2,
        num_draft_tokens=4,
        num_accepted_draft_tokens=2,
        num_examined_draft_tokens=3,
        acceptance_histogram=[0, 2, 0],
        drafted_per_step=[2, 2],
        accepted_per_step=[1, 1],
    )

    assert positions(ended)[:2] == [(1, 1), (0, 0)]


def test_counts_that_contradict_each_other_give_no_conditional_acceptance():
    # 20 are kept by the count and 18 by the histogram.
    found = positions(generation("t", 0, acceptance_histogram=[2, 3, 2, 1, 2]))

    assert np.isnan([conditional for conditional, _ in found]).all()
    assert [share for _, share in found[:4]] == pytest.approx([0.8, 0.5, 0.3, 0.2])


def test_positions_of_a_real_run_add_up():
    folder = Path(__file__).parents[2] / "results" / "embedded_pair"
    records = list(read_records(folder))
    total = Sums(np.sum([addends(each) for each in records[:300]], axis=0))
    kept, examined = (
        sum(total[f"conditional_acceptance_at_{i}.{part}"] for i in range(1, 17))
        for part in ("numerator", "denominator")
    )

    assert kept == total["conditional_acceptance_rate.numerator"]
    assert examined == total["conditional_acceptance_rate.denominator"]


def test_runs_may_say_different_things_of_one_task():
    aggregator = Aggregator("domain")
    for d in range(3):
        aggregator.add(generation("t", d), TaskFacts("t", {"domain": "law"}), run="one")
        aggregator.add(generation("t", d), TaskFacts("t", {"domain": "art"}), run="two")

    assert aggregator.aggregate(1).requests == {"law": 3, "art": 3}


def test_a_document_in_several_groups_counts_once_in_percentiles_of_the_whole():
    aggregator = Aggregator("kind")
    for d in range(1, 21):
        kinds = ["all", "late"] if d > 10 else ["all"]
        aggregator.add(
            generation("t", d, decode_seconds=float(d), group_fields={"kind": kinds}),
            TaskFacts("t"),
        )
    summary = summarise(aggregator, {}, num_resamples=100)

    # The 10th and the 19th of 1 to 20; with late ones twice it would be the 15th of 30: 13.
    whole = [summary.overall[f"seconds_per_document_{label}"] for label in ("p50", "p95")]
    assert [(each.value, each.n) for each in whole] == [(10, 20), (19, 20)]
    assert summary.groups["late"]["seconds_per_document_p50"].value == 15


def test_a_list_of_languages_gives_its_groups_no_class_of_resources():
    aggregator = Aggregator("language")
    for d in range(3):
        aggregator.add(generation("t", d, group_fields={"language": ["en", "sw"]}), TaskFacts("t"))
        aggregator.add(generation("u", d, group_fields={"language": "th"}), TaskFacts("u"))

    assert aggregator.aggregate(1).resource_classes == {"th": "3"}
