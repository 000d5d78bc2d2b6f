"""The choice of draft lengths: against closed forms, brute force and fresh data."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.groups.task_facts import TaskFacts
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.metrics.aggregate.aggregator import Aggregator
from lm_eval_specfair.metrics.aggregate.clusters import MAX_UNITS
from lm_eval_specfair.metrics.definitions.closed_forms import (
    expected_tokens_per_step,
    textbook_speedup,
)
from lm_eval_specfair.metrics.draft_length.length_sums import DraftLengths
from lm_eval_specfair.metrics.draft_length.selection import choose_policy
from lm_eval_specfair.metrics.draft_length.step_cost import GivenCosts, StepCosts
from lm_eval_specfair.records import Settings
from lm_eval_specfair.records.policy_file import read_policy
from lm_eval_specfair.reporting.policy.build_policy import build_policy, policy_file
from lm_eval_specfair.reporting.policy.policy_text import render_policy

from support.draft_lengths import record_of
from support.synthetic_records import write_folder

PLAIN_SECONDS = 0.01
COSTS = GivenCosts(draft=0.1, verify=1.0, overhead=0.0, length=4)
# At this rate 2 and 3 drafted tokens serve alike, f_2 / 1.2 = f_3 / 1.3, and no other better.
TIED_RATE = next(a for a in np.linspace(0.3, 0.9, 6_001) if 1.2 * a**3 >= 0.1 * (1 + a + a * a))


def step_seconds(drafted, c=0.1, rest=1.1):
    return PLAIN_SECONDS * (c * drafted + (rest if drafted else 1.0))


def run(rates, *, length=4, num_documents=40, num_tokens=60, seed=0, spread=0.0, baseline=True):
    """Texts whose tokens are kept independently, with a chance that differs by group and text."""
    generator, records = np.random.default_rng(seed), []
    for group, rate in rates.items():
        for doc_id in range(num_documents):
            chance = np.clip(rate + generator.normal(0, spread), 0.01, 0.99)
            record = record_of(generator.uniform(size=num_tokens) < chance, length)
            seconds = sum(step_seconds(each) for each in record.drafted_per_step)
            changes = {
                "task": f"demo_{group}",
                "request_id": f"{group}/{doc_id}",
                "doc_id": doc_id,
                "group_fields": {"language": group},
                "decode_seconds": seconds * generator.uniform(0.95, 1.05),
                "verify_seconds": 0.5 * seconds,
                "draft_seconds": PLAIN_SECONDS * 0.1 * record.num_draft_tokens,
                "baseline_seconds": PLAIN_SECONDS * num_tokens if baseline else None,
                "baseline_generated_tokens": num_tokens if baseline else None,
            }
            records.append(structs.replace(record, **changes))
    return records


def lengths_of(*runs, longest=4):
    measured = [records[0].settings.num_speculative_tokens for records in runs]
    lengths = DraftLengths("language", measured, longest)
    for records, length in zip(runs, measured, strict=True):
        for record in records:
            lengths.add(record, TaskFacts(record.task), length)
    return lengths


def chosen(policy):
    return {group: choice.chosen for group, choice in policy.choices.items()}


def test_independent_acceptance_gives_the_textbook_optimum():
    # Leviathan's closed form, maximised over the draft length, for chances far from a tie.
    rates = {"de": 0.8, "fr": 0.5, "he": 0.03}
    optimum = {
        group: max(range(9), key=lambda gamma: textbook_speedup(rate, gamma, 0.1))
        for group, rate in rates.items()
    }
    records = run(rates, length=8, num_documents=50, num_tokens=200)
    costs = GivenCosts(draft=0.1, verify=1.0, overhead=0.0, length=8)
    policy = choose_policy(lengths_of(records, longest=8), current=8, costs=costs)

    assert optimum == {"de": 6, "fr": 2, "he": 0}
    for group, choice in policy.choices.items():
        # Next to the top the curve is flat: the neighbour's speed-up is as good within 1%.
        assert abs(choice.best - optimum[group]) <= (group == "de")
        best = textbook_speedup(rates[group], optimum[group], 0.1)
        assert choice.expected.chosen_speedup.value == pytest.approx(best, rel=0.02)
    assert policy.choices["fr"].chosen == 2
    assert policy.choices["he"].chosen == 0


def test_steps_of_shorter_drafts_follow_the_closed_form():
    lengths = lengths_of(run({"fr": 0.7}, num_documents=200, num_tokens=200))
    (block,) = lengths.blocks(["fr"])
    sums, columns = block.sum((0, 1)), lengths.columns
    for gamma in range(5):
        steps = sums[columns.replayed(gamma)][0]
        assert 200 * 200 / steps == pytest.approx(expected_tokens_per_step(0.7, gamma), rel=0.02)


def test_the_best_length_is_that_of_decoding_with_each_of_them():
    # Brute force: the same texts decoded with every length, and the steps' costs added up.
    generator = np.random.default_rng(3)
    texts = [generator.uniform(size=80) < rate for rate in generator.uniform(0.2, 0.9, 30)]

    def seconds(length):
        if length == 0:
            return sum(len(text) for text in texts)
        records = [record_of(text, length) for text in texts]
        return sum(0.1 * each.num_draft_tokens + 1.2 * each.num_spec_steps for each in records)

    lengths = DraftLengths("task", [6], 6)
    for doc_id, text in enumerate(texts):
        record = structs.replace(record_of(text, 6), doc_id=doc_id)
        lengths.add(record, TaskFacts(record.task), 6)
    costs = GivenCosts(draft=0.1, verify=1.2, overhead=0.0, length=6)
    policy = choose_policy(lengths, current=6, costs=costs)

    (choice,) = policy.choices.values()
    assert choice.best == min(range(7), key=seconds)
    current = sum(len(text) for text in texts) / seconds(6)
    assert choice.expected.current_speedup.value == pytest.approx(current, rel=0.005)


def tied(seed, **sizes):
    records = run({"sw": TIED_RATE}, length=3, seed=seed, **sizes)
    costs = GivenCosts(draft=0.1, verify=1.0, overhead=0.0, length=3)
    lengths = lengths_of(records, longest=3)
    choice = choose_policy(lengths, current=3, costs=costs, num_resamples=300).choices["sw"]
    sums, columns = lengths.blocks(["sw"])[0].sum((0, 1)), lengths.columns
    seconds = {0: sums[columns.replayed(0)][0]}
    for length in (1, 2, 3):
        steps, drafted, *_ = sums[columns.replayed(length)]
        seconds[length] = steps + 0.1 * drafted
    return choice, seconds[3] / min(seconds.values()) - 1


def test_where_nothing_is_to_be_gained_nothing_is_promised():
    # The best of several lengths beats the current one in almost every sample, by noise alone.
    found = [tied(seed, num_documents=10, num_tokens=25) for seed in range(20)]
    in_sample = np.mean([gain for _, gain in found])
    promised = np.mean([choice.expected.gain.value for choice, _ in found])

    assert in_sample > 0.004
    assert promised < 0.001
    assert sum(choice.chosen == 3 for choice, _ in found) >= 18


@pytest.mark.slow
def test_false_changes_are_rare_and_expected_gains_come_true():
    trials, alarms, covered, changes = 200, 0, 0, 0
    truth = textbook_speedup(0.3, 1, 0.1) / textbook_speedup(0.3, 4, 0.1) - 1
    for seed in range(trials):
        choice, _ = tied(seed, num_documents=20, num_tokens=100)
        alarms += choice.chosen != 3
        records = run({"he": 0.3}, num_documents=20, num_tokens=100, seed=10_000 + seed)
        policy = choose_policy(lengths_of(records), current=4, costs=COSTS, num_resamples=300)
        gain = policy.choices["he"].expected.gain
        # The last steps of a text draft less, which the closed form does not know: 1 to 2%.
        covered += gain.low <= truth * 1.02 and truth * 0.98 <= gain.high
        changes += policy.choices["he"].chosen != 4
    assert alarms / trials <= 0.06
    assert changes == trials
    assert covered / trials >= 0.93


def test_a_policy_from_one_half_gains_on_the_other_what_it_promised():
    rates = {"de": 0.85, "fr": 0.6, "sw": 0.35, "he": 0.1}
    first = run(rates, seed=1, spread=0.1)
    policy = choose_policy(lengths_of(first), current=4)

    fresh = lengths_of(run(rates, seed=2, spread=0.1, num_documents=200))
    groups = sorted(rates)
    blocks = fresh.blocks(groups)
    sums = np.concatenate([block.sum(0) for block in blocks])
    for group, choice in policy.choices.items():
        row = sums[groups.index(group)]

        def seconds(length, row=row):
            steps, drafted, *_ = row[fresh.columns.replayed(length)]
            return 0.1 * drafted + (1.1 if length else 1.0) * steps

        gain = seconds(4) / seconds(choice.chosen) - 1
        if choice.chosen != 4:
            assert gain > 0
            assert choice.expected.gain.low - 0.03 < gain < choice.expected.gain.high + 0.03
    assert chosen(policy)["he"] == 0
    assert chosen(policy)["de"] == 4
    assert 0 < chosen(policy)["sw"] < 4


def test_costs_come_from_the_runs_and_several_lengths_give_several_points():
    short, long = run({"fr": 0.6}, length=2), run({"fr": 0.6}, length=6)
    policy = choose_policy(lengths_of(long, short, longest=6), current=6)

    assert policy.measured == [2, 6]
    for drafted, cost in policy.costs:
        assert cost == pytest.approx(0.1 * drafted + 1.1, rel=0.02)


@given(
    st.lists(st.floats(0.3, 3.0), min_size=1, max_size=3),
    st.floats(0, 0.3),
    st.floats(0.1, 12),
)
def test_a_steps_cost_goes_through_its_points_and_never_falls_below_cheaper_drafting(
    rises, draft, at
):
    points = np.cumsum([2.0] * len(rises))
    cost = 1 + np.cumsum(rises)
    costs = StepCosts(drafted=points, cost=cost, draft=np.array(draft))

    assert costs.of(points).tolist() == pytest.approx(cost.tolist())
    below = float(costs.of(np.array(min(at, 2.0))))
    assert below == pytest.approx(cost[0] - draft * (2.0 - min(at, 2.0)))
    assert float(costs.of(np.array(points[-1] + at))) >= cost[-1]


def test_costs_named_by_the_user_replace_those_measured():
    records = run({"fr": 0.6}, baseline=False)
    with pytest.raises(ConfigError, match="run it with baseline=8, or name the costs"):
        choose_policy(lengths_of(records), current=4)
    dear = GivenCosts(draft=2.0, verify=1.0, overhead=0.0, length=4)

    assert chosen(choose_policy(lengths_of(records), current=4, costs=dear)) == {"fr": 0}


def test_a_policy_made_twice_is_the_same_and_reads_back(tmp_path):
    folder = write_folder(tmp_path / "run", run({"de": 0.85, "he": 0.05}))
    policy = build_policy([folder])
    path = tmp_path / "policy.json"
    path.write_text(policy_file(policy, [folder]).to_json())

    read = DraftPolicy.read(str(path))
    assert (read.default, read.group_by, dict(read.groups)) == (4, "language", policy.groups)
    assert policy.groups["he"] == 0
    assert policy_file(build_policy([folder]), [folder]).to_json() == path.read_text()
    # What its text holds beside the lengths is read again too.
    assert read_policy(path) == policy_file(policy, [folder])


def test_the_verb_prints_and_writes(tmp_path, capsys):
    folder = write_folder(tmp_path / "run", run({"de": 0.85, "he": 0.05}))
    path = tmp_path / "policy.json"

    assert main(["policy", str(folder), "-o", str(path), "--format", "json"]) == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert printed["groups"]["he"]["draft_length"] == json.loads(path.read_text())["groups"]["he"]
    assert f"wrote {path}" in err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["policy.json", "run"]
    assert main(["policy", str(folder), "--costs", "0.05,1.1,0.02", "--longest", "6"]) == 0
    assert "Lengths above 4 were not measured" in " ".join(capsys.readouterr().out.split())


def test_every_format_names_every_group(tmp_path):
    records = run({"de": 0.85, "he": 0.05, "sw": 0.4})
    policy = build_policy([write_folder(tmp_path / "run", records)])

    for form in ("table", "md", "json", "csv"):
        assert all(group in render_policy(policy, form) for group in ("de", "he", "sw"))
    with pytest.raises(ValueError, match="format must be table, md, json or csv, got 'pdf'"):
        render_policy(policy, "pdf")


def refusal(tmp_path, records, **options):
    with pytest.raises(ConfigError) as caught:
        build_policy([write_folder(tmp_path / "run", records)], **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_no_policy_can_be_made_of_is_said(tmp_path):
    plain = run({"fr": 0.6})
    off = Settings(num_speculative_tokens=0, temperature=0.0, top_k=None, top_p=None)
    unknown = {"settings": off, "acceptance_histogram": None, "drafted_per_step": None}
    unknown |= {"num_draft_tokens": None, "accepted_per_step": None}
    plain[:3] = [structs.replace(record, **unknown) for record in plain[:3]]
    assert "draft one number of tokens, got 0, 4" in refusal(tmp_path / "a", plain)
    assert "got no drafts" in refusal(tmp_path / "b", [])
    few = run({"fr": 0.6}, num_documents=3)
    assert "at least 5 requests" in refusal(tmp_path / "c", few)
    assert "recorded twice" in refusal(tmp_path / "d", [few[0], few[0]])
    assert "--longest must lie in 1 ... 64" in refusal(tmp_path / "e", few, longest=0)
    assert "v above 0" in refusal(tmp_path / "f", few, costs=(0.1, 0.0, 0.0))
    with pytest.raises(ConfigError, match="is named twice"):
        build_policy([tmp_path / "f" / "run"] * 2)


def test_bad_input_ends_with_status_2_and_leaves_nothing(tmp_path, capsys):
    folder = write_folder(tmp_path / "run", run({"fr": 0.6}))

    assert main(["policy", str(folder), "-o", str(folder / "run.json" / "policy.json")]) == 2
    assert "run.json is no folder; name another place" in capsys.readouterr().err
    assert main(["policy", str(folder), "--costs", "a,b"]) == 2
    assert "expected three numbers" in capsys.readouterr().err


def test_groups_with_the_same_documents_are_drawn_together_as_in_reports():
    records = run({"de": 0.5, "fr": 0.5}, num_documents=30, num_tokens=9)

    for chosen_records, parallel in ((records, True), (records[:-1], False)):
        aggregator = Aggregator("language")
        for record in chosen_records:
            aggregator.add(record, TaskFacts(record.task))
        assert aggregator.aggregate(1).is_parallel == parallel
        shapes = [block.shape[:2] for block in lengths_of(chosen_records).blocks(["de", "fr"])]
        assert shapes == ([(30, 2)] if parallel else [(30, 1), (29, 1)])


def test_of_very_many_documents_several_are_drawn_as_one():
    lengths = lengths_of(run({"de": 0.5, "fr": 0.5}, num_documents=MAX_UNITS + 9, num_tokens=3))

    (block,) = lengths.blocks(["de", "fr"])
    assert block.shape[:2] == (MAX_UNITS, 2)
    assert block.sum(0)[:, lengths.columns.texts.start].tolist() == [MAX_UNITS + 9] * 2
