"""Runs whose groups have drafters of their own: what is decoded, recorded, said and refused."""

import json
import logging

import pytest

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.records import read_run

from support.evaluations import evaluate, hf, records_of, specfair, texts, toy_task

DOCUMENTS = [
    {"prompt": f"{word} {number} {word}", "reference": "", "language": language}
    for number, (word, language) in enumerate(
        [("one", "en"), ("eins", "de"), ("раз", "ru"), ("uno", "it")] * 3
    )
]


def routes(folder, drafter: str, **changed) -> str:
    content = {
        "schema_version": 2,
        "group_by": "language",
        "default": {"drafter": drafter, "num_speculative_tokens": 3},
        "groups": {
            "de": {"drafter": "prompt_lookup", "num_speculative_tokens": 5},
            "ru": {"drafter": "none"},
        },
    }
    path = folder / "policy.json"
    path.write_text(json.dumps(content | changed))
    return str(path)


def test_each_group_is_drafted_by_its_own_drafter(pair_folder, tmp_path, caplog):
    policy = routes(tmp_path, str(pair_folder / "drafter"))
    with caplog.at_level(logging.WARNING):
        model = specfair(pair_folder, tmp_path / "run", batch_size=5, drafter=policy, baseline=2)
        task = [toy_task("toy", DOCUMENTS)]
        ours = texts(evaluate(model, task), "toy")

    assert ours == texts(evaluate(hf(pair_folder), task), "toy")
    drafter = str(pair_folder / "drafter")
    expected = {
        "en": (3, drafter), "it": (3, drafter), "de": (5, "prompt_lookup"), "ru": (0, "none"),
    }  # fmt: skip
    for record in records_of(tmp_path / "run").values():
        length, name = expected[record.group_fields["language"]]
        assert (record.settings.num_speculative_tokens, record.settings.drafter) == (length, name)
        assert (sum(record.drafted_per_step) > 0) == (record.overlap_sum is not None)
        if name == "none":
            assert record.num_draft_tokens == 0
    run = read_run(tmp_path / "run")["settings"]
    assert run["routes"] == {
        "default": drafter,
        "groups": {"de": "prompt_lookup", "ru": "none"},
    }
    assert set(run["drafter_weights"]) == {drafter, "prompt_lookup"}
    assert run["drafter"] == f"policy.json ({drafter}, prompt_lookup)"
    assert "the drafters' models take" in caplog.text
    assert f"got its default of 3 tokens by {drafter}: en, it" in caplog.text


def test_each_group_has_the_temperature_of_its_drafter(pair_folder, tmp_path):
    drafter = str(pair_folder / "drafter")
    groups = {
        "de": {"drafter_temperature": 0.0},
        "ru": {"drafter": "none", "drafter_temperature": 0.3},
        "en": {"drafter": drafter, "drafter_temperature": 0.5},
    }
    policy = routes(tmp_path, drafter, groups=groups)
    sampled = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    model = specfair(
        pair_folder, tmp_path / "run", batch_size=5, drafter=policy, drafter_temperature=0.7
    )
    evaluate(model, [toy_task("toy", DOCUMENTS, generation_kwargs=sampled)])

    expected = {"en": 0.5, "it": 0.7, "de": 0.0, "ru": None}
    for record in records_of(tmp_path / "run").values():
        language = record.group_fields["language"]
        assert record.settings.drafter_temperature == expected[language]
    settings = read_run(tmp_path / "run")["settings"]
    assert settings["routes"]["drafter_temperatures"]["groups"] == {
        "de": 0.0, "ru": 0.3, "en": 0.5,
    }  # fmt: skip


def test_a_resumed_run_needs_the_same_routes(pair_folder, tmp_path):
    drafter = str(pair_folder / "drafter")
    arguments = {"drafter": routes(tmp_path, drafter), "resume": True}
    task = [toy_task("toy", DOCUMENTS[:4])]
    evaluate(specfair(pair_folder, tmp_path / "run", **arguments), task)
    evaluate(specfair(pair_folder, tmp_path / "run", **arguments), task)

    routes(tmp_path, drafter, groups={"de": {"drafter": "none"}})
    with pytest.raises(ConfigError, match=r"num_speculative_tokens|routes"):
        specfair(pair_folder, tmp_path / "run", **arguments)


def test_a_drafter_is_found_beside_its_policy(pair_folder, tmp_path):
    (tmp_path / "mine").symlink_to(pair_folder / "drafter")
    policy = routes(tmp_path, "mine")
    arguments = Arguments.read("target", {"drafter": policy})
    assert arguments.drafting_models == {"mine": str(tmp_path / "mine")}


def test_a_policy_of_another_target_is_refused(pair_folder, tmp_path):
    made_from = {"target_weights": "sha256:0123456789abcdef"}
    policy = routes(tmp_path, str(pair_folder / "drafter"), made_from=made_from)
    with pytest.raises(ConfigError, match=r"made for a target with the weights sha256:0123") as it:
        specfair(pair_folder, tmp_path / "run", drafter=policy)
    assert "\n" not in str(it.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_speculative_tokens": 4}, "num_speculative_tokens does not go with drafter="),
        ({"drafter_peft": "x"}, "drafter_peft does not go with drafter="),
        ({"backend": "vllm"}, "other engines have one drafter"),
    ],
)
def test_what_does_not_go_with_a_policy_is_refused(tmp_path, arguments, message):
    if "backend" in arguments:
        pytest.importorskip("vllm")
    with pytest.raises(ConfigError, match=message):
        Arguments.read("target", {"drafter": routes(tmp_path, "small")} | arguments)


def test_a_drafter_that_is_not_there_is_named(pair_folder, tmp_path):
    policy = routes(tmp_path, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        specfair(pair_folder, tmp_path / "run", drafter=policy)
    missing = str(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="drafter must be a policy file, got"):
        Arguments.read("target", {"drafter": missing})
