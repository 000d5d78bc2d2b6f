"""Policies that choose between drafters: from folders of runs to what is printed and written."""

import csv
import io
import json

import numpy as np
import pytest
from msgspec import structs

from lm_eval_specfair.api import policy as policy_of
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.metrics.definitions.closed_forms import textbook_speedup
from lm_eval_specfair.metrics.routing.drafter_texts import PLAIN
from lm_eval_specfair.records.policy_file import read_policy
from lm_eval_specfair.reporting.policy.build_policy import build_policy, policy_file
from lm_eval_specfair.reporting.policy.policy_text import render_policy

from support.draft_lengths import record_of
from support.synthetic_records import write_folder

TOKENS, DOCUMENTS = 60, 30
# By drafter: what drafting a token costs, and how often a token is kept, by group. The dear drafter
# is right more often everywhere, and worth its price for Thai alone.
COST = {"dear": 0.3, "cheap": 0.05}
RATES = {
    "dear": {"de": 0.80, "he": 0.10, "th": 0.85},
    "cheap": {"de": 0.75, "he": 0.03, "th": 0.20},
}
COSTS = {name: (c, 1.0, 0.0) for name, c in COST.items()}


def records_of(name, seed=0, *, length=4, documents=DOCUMENTS):
    generator, records = np.random.default_rng([seed, len(name)]), []
    for group, rate in RATES[name].items():
        for doc_id in range(documents):
            record = record_of(generator.uniform(size=TOKENS) < rate, length)
            seconds = record.num_spec_steps + COST[name] * record.num_draft_tokens
            records.append(
                structs.replace(
                    record,
                    request_id=f"{group}/{doc_id}",
                    task=f"demo_{group}",
                    doc_id=doc_id,
                    group_fields={"language": group},
                    generated_token_ids=[doc_id] * TOKENS,
                    decode_seconds=seconds / 100,
                    verify_seconds=record.num_spec_steps / 100,
                    draft_seconds=COST[name] * record.num_draft_tokens / 100,
                    baseline_seconds=TOKENS / 100,
                    baseline_generated_tokens=TOKENS,
                )
            )
    return records


def folder_of(path, name, records=None, **settings):
    settings = {"drafter": name, "target": "big", "target_weights": "sha256:1", **settings}
    return write_folder(path / name, records or records_of(name), settings=settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routes")
    return [folder_of(folder, name) for name in ("dear", "cheap")]


@pytest.fixture(scope="module")
def policy(runs):
    return build_policy(runs)


def test_each_group_gets_the_pair_that_the_closed_form_names(policy):
    optimum = {
        group: max(
            ((name, length) for name in RATES for length in range(1, 5)),
            key=lambda pair: textbook_speedup(RATES[pair[0]][group], pair[1], COST[pair[0]]),
        )
        for group in ("de", "th")
    }
    assert {group: pair[0] for group, pair in optimum.items()} == {"de": "cheap", "th": "dear"}
    assert policy.groups["de"].drafter == "cheap"  # although the dear one is right more often
    assert policy.groups["th"].drafter == "dear"
    assert policy.groups["he"] == PLAIN
    for group, pair in optimum.items():
        best = textbook_speedup(RATES[pair[0]][group], pair[1], COST[pair[0]])
        assert policy.choices[group].expected.chosen_speedup.value == pytest.approx(best, rel=0.04)
        assert abs(policy.groups[group].length - pair[1]) <= 1
    assert policy.choices["he"].expected.chosen_speedup.value == 1.0
    for name, points in policy.costs.items():
        ((drafted, cost),) = points
        assert cost == pytest.approx(1 + COST[name] * drafted, rel=0.01)


def test_acceptance_alone_would_choose_wrong(runs):
    # At one price for both, the drafter that is right more often is taken for German.
    even = build_policy(runs, costs=dict.fromkeys(COSTS, (0.05, 1.0, 0.0)))
    assert even.choices["de"].best.drafter == "dear"
    named = build_policy(runs, costs=COSTS)
    assert named.choices["de"].best.drafter == "cheap"
    # Named costs are those of steps as the runs took them, which is how they are measured.
    for name, points in build_policy(runs).costs.items():
        assert named.costs[name] == [pytest.approx(points[0], rel=0.01)]


def test_the_file_is_what_a_run_reads(policy, runs, tmp_path, capsys):
    path = tmp_path / "policy.json"
    assert main(["policy", *map(str, runs), "-o", str(path), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    file = read_policy(path)
    assert file == policy_file(policy, runs)
    assert json.loads(path.read_text())["schema_version"] == 2
    assert file.made_from["target_weights"] == "sha256:1"
    assert file.made_from["drafters_needed"] == ["dear", "cheap"]
    assert set(file.expected) == {g for g, r in policy.groups.items() if r != policy.incumbent}
    read = DraftPolicy.read_routes(str(path))
    for group, route in policy.groups.items():
        assert (file.drafter_of(group), file.groups[group]) == route
        assert printed["groups"][group]["drafter"] == route.drafter
        assert printed["groups"][group]["draft_length"] == route.length
    assert (read.default_drafter, read.default) == policy.default
    assert set(read.drafter_names) >= {"cheap", "dear"}


def test_every_format_names_drafters_groups_and_the_default(policy):
    for form in ("table", "md"):
        text = " ".join(render_policy(policy, form).split())
        for part in ("dear", "cheap", "plain", "Expected, not measured", "not named get the", "5%"):
            assert part in text
    rows = list(csv.DictReader(io.StringIO(render_policy(policy, "csv"))))
    found = {(row["group"], row["drafter"], int(row["draft_length"])) for row in rows}
    assert found == {(group, *route) for group, route in policy.groups.items()}
    with pytest.raises(ValueError, match="format must be table, md, json or csv, got 'pdf'"):
        render_policy(policy, "pdf")


def test_a_policy_made_twice_is_the_same(policy, runs):
    assert render_policy(build_policy(runs), "json") == render_policy(policy, "json")


def test_runs_of_one_drafter_with_several_lengths_are_one_drafter(runs, tmp_path):
    short = folder_of(tmp_path, "cheap", records_of("cheap", 5, length=2))
    policy = build_policy([*runs, short])
    assert policy.drafters == {"dear": [4], "cheap": [2, 4]}
    assert len(policy.costs["cheap"]) == 2
    assert policy.choices["de"].expected.gain.n == DOCUMENTS
    assert policy.groups["th"].drafter == "dear"


def test_one_drafters_runs_give_what_they_gave(runs, tmp_path):
    from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy

    alone = build_policy(runs[:1])
    assert isinstance(alone, LengthPolicy)
    unnamed = write_folder(tmp_path / "run", records_of("dear"))
    assert render_policy(alone, "json") == render_policy(build_policy([unnamed]), "json")
    assert json.loads(policy_file(alone, runs[:1]).to_json())["schema_version"] == 1


def test_a_gateway_is_told_the_drafter(runs, tmp_path, capsys):
    urls = {0: "http://plain:1", ("dear", 4): "http://dear:1", ("cheap", 4): "http://cheap:1"}
    policy = policy_of(*runs, upstreams=urls, gateway=tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["groups"]["de"]["drafter"] == "cheap"
    assert table["groups"]["de"]["base_url"] == "http://cheap:1"
    assert table["groups"]["th"]["base_url"] == "http://dear:1"
    hebrew = table["groups"]["he"]
    assert (hebrew["drafter"], hebrew["speculation"]) == ("none", "off")
    assert hebrew["base_url"] == "http://plain:1"
    assert {route.length for route in policy.groups.values()} <= {0, 4}
    command = ["policy", *map(str, runs), "--gateway", str(tmp_path / "same.json")]
    servers = ["--upstream", "0=http://plain:1", "--upstream", "dear:4=http://dear:1"]
    servers += ["--upstream", "cheap:4=http://cheap:1"]
    assert main([*command, *servers]) == 0
    assert (tmp_path / "same.json").read_text() == (tmp_path / "table.json").read_text()
    assert "Chosen among what is served" in " ".join(capsys.readouterr().out.split())
    assert main([*command, "--upstream", "0=http://plain:1", "--upstream", "4=http://x:1"]) == 2
    assert "expected the drafter of each server" in capsys.readouterr().err
    assert main([*command, "--upstream", "cheap:4=http://cheap:1"]) == 2
    assert "expected a server with dear and the 4 drafted tokens" in capsys.readouterr().err


def refusal(runs, **options):
    with pytest.raises(ConfigError) as caught:
        build_policy(runs, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_that_cannot_be_chosen_between_are_refused(runs, tmp_path):
    cheap = records_of("cheap")
    fewer = folder_of(tmp_path / "a", "cheap", cheap[:-1])
    assert "1 request only in the base" in refusal([runs[0], fewer])
    other = folder_of(tmp_path / "b", "cheap", target_weights="sha256:2")
    assert "target_weights was 'sha256:1', is 'sha256:2'" in refusal([runs[0], other])
    unnamed = write_folder(tmp_path / "c", cheap)
    assert "does not say with what drafter" in refusal([runs[0], unnamed])
    assert "costs must say whose they are" in refusal(runs, costs=(0.1, 1.0, 0.0))
    assert "costs are named for 'small'" in refusal(runs, costs={"small": (0.1, 1.0, 0.0)})
    assert "--level must lie between 0 and 1" in refusal(runs, level=0.0)
    twin = folder_of(tmp_path / "d", "cheap", drafter_weights="sha256:3")
    assert "has other weights than the one of that name" in refusal([runs[1], twin])
    mixed = folder_of(tmp_path / "h", "cheap", routes={"default": "cheap", "groups": {}})
    assert "decoded with a policy of drafters" in refusal([runs[0], mixed])
    wrong = [structs.replace(cheap[0], generated_token_ids=[7] * TOKENS), *cheap[1:]]
    exact = [
        folder_of(tmp_path / "e", "dear", dtype="float32"),
        folder_of(tmp_path / "e", "cheap", wrong, dtype="float32"),
    ]
    assert "1 greedy texts differ, such as 'de/0'" in refusal(exact)
    untimed = [structs.replace(record, baseline_seconds=None) for record in cheap]
    text = refusal([runs[0], folder_of(tmp_path / "f", "cheap", untimed)])
    assert "name the costs with --costs cheap=C,V,O" in text
    stepless = [
        structs.replace(cheap[0], accepted_per_step=None, acceptance_histogram=None),
        *cheap[1:],
    ]
    text = refusal([runs[0], folder_of(tmp_path / "g", "cheap", stepless)])
    assert "do not say for the same requests what each step kept" in text


def test_rounding_may_make_greedy_texts_differ_and_is_said(runs, tmp_path):
    cheap = records_of("cheap")
    wrong = [structs.replace(cheap[0], generated_token_ids=[7] * TOKENS), *cheap[1:]]
    coarse = [
        folder_of(tmp_path, "dear", dtype="bfloat16"),
        folder_of(tmp_path, "cheap", wrong, dtype="bfloat16"),
    ]
    text = " ".join(render_policy(build_policy(coarse), "table").split())
    assert "which rounding can do in these numbers: 1" in text


def test_groups_with_few_documents_get_the_default(tmp_path):
    runs = [
        folder_of(
            tmp_path,
            name,
            [each for each in records_of(name) if each.task != "demo_he" or each.doc_id < 5],
        )
        for name in RATES
    ]
    policy = build_policy(runs)
    assert policy.not_reported == {"he": 5}
    assert "he" not in policy.groups
    # Of the two left, the cheap one serves German so well that its geometric mean is the larger.
    assert policy.default.drafter == "cheap"
    few = [folder_of(tmp_path / "few", name, records_of(name, documents=5)) for name in RATES]
    assert "at least 6 documents" in refusal(few)
