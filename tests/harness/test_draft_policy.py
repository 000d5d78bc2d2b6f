"""Policies of draft lengths as files: what is read, what is refused, what is warned of."""

import json
import logging
from types import SimpleNamespace

import pytest

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.draft_policy import DraftPolicy
from lm_eval_specfair.records.policy_file import EXAMPLE, EXAMPLE_OF_ROUTES, read_policy

FIRST = {
    "schema_version": 1,
    "group_by": "language",
    "default": 4,
    "groups": {"en": 6, "th": 0},
    "made_from": {"runs": ["run"]},
    "something": "that another version says",
}
SECOND = {
    "schema_version": 2,
    "group_by": "language",
    "default": {"num_speculative_tokens": 4},
    "groups": {"en": {"num_speculative_tokens": 6}, "th": {"num_speculative_tokens": 0}},
}


def read(tmp_path, content):
    path = tmp_path / "policy.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return DraftPolicy.read(str(path))


@pytest.mark.parametrize("content", [FIRST, SECOND, EXAMPLE])
def test_both_versions_of_lengths_alone_and_the_example_of_the_message_are_read(tmp_path, content):
    assert read(tmp_path, content) == DraftPolicy(
        default=4, group_by="language", groups={"en": 6, "th": 0}
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            SECOND | {"default": {"drafter": "a", "num_speculative_tokens": 4}},
            "names drafters too: pass it as drafter=",
        ),
        (SECOND | {"groups": {"en": {"drafter": "a"}}}, "give its default a drafter"),
        (SECOND | {"default": {}}, "expected num_speculative_tokens in its default"),
        (SECOND | {"groups": {"en": {"draft": 3}}}, "unknown field `draft`"),
        (FIRST | {"schema_version": 3}, "Invalid value 3 - at `$.schema_version`"),
        (FIRST | {"schema_version": 2}, "Expected `object`, got `int` - at `$.default`"),
        (FIRST | {"groups": {"en": 100_000}}, "Expected `int` <= 256"),
        (FIRST | {"default": -1}, "Expected `int` >= 0"),
        (FIRST | {"default": 0, "groups": {"en": 0}}, "drafts nothing for anybody"),
        (FIRST | {"group_by": " , "}, "expected group_by to name a field"),
        ("", "truncated"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, reason):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)

    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, 257, 100_000, True, 1.5, "100000", "9" * 400])
def test_lengths_that_no_step_can_have_are_refused(value):
    with pytest.raises(ConfigError, match=r"whole number in 1 \.\.\. 256, got") as caught:
        DraftPolicy.read(value)

    assert len(str(caught.value)) < 250


def test_groups_that_no_request_can_have_are_named(tmp_path, caplog):
    groups = {"en": 6, "english": 5, "xx": 2, "iw": 3, "zh-Hans": 4, "(none)": 1}
    with caplog.at_level(logging.WARNING):
        read(tmp_path, FIRST | {"groups": groups})

    (warning,) = caplog.messages
    for text in (
        "'english' is not how a language is named here: write en",
        "'xx' is no language",
        "write he",
        "default of 4 tokens",
    ):
        assert text in warning
    assert "zh-Hans" not in warning

    caplog.clear()
    read(tmp_path, FIRST | {"group_by": "domain", "groups": groups})
    assert not caplog.messages


def test_groups_that_were_never_met_and_those_that_fell_to_the_default_are_named(tmp_path, caplog):
    policy = read(tmp_path, FIRST | {"groups": {"en": 6, "uk": 2}})
    for language in ("en", "sw", "sw"):
        instance = SimpleNamespace(task_name="toy", doc={"language": language})
        policy.drafting_for(instance)

    policy.warn_of_strangers()

    assert "the policy names groups that no request had: uk" in caplog.text
    assert "not in the policy, and got its default of 4 tokens: sw" in caplog.text


def test_a_policy_that_fits_its_run_says_nothing(tmp_path, caplog):
    policy = read(tmp_path, FIRST | {"groups": {"en": 6}})
    policy.drafting_for(SimpleNamespace(task_name="toy", doc={"language": "en"}))

    policy.warn_of_strangers()

    assert not caplog.text


ROUTES = {
    "schema_version": 2,
    "group_by": "language",
    "default": {"drafter": "small", "num_speculative_tokens": 4},
    "groups": {
        "en": {"drafter": "prompt_lookup", "num_speculative_tokens": 6},
        "de": {"num_speculative_tokens": 2},
        "fr": {"drafter": "other"},
        "uk": {"drafter": "none"},
        "th": {"num_speculative_tokens": 0},
    },
    "made_from": {"target_weights": "sha256:1"},
}


def drafted(policy: DraftPolicy, language: str) -> tuple[int, str | None]:
    return policy.drafting_for(SimpleNamespace(task_name="toy", doc={"language": language}))


def test_a_policy_names_a_drafter_and_a_length_for_each_group(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(ROUTES))
    policy = DraftPolicy.read_routes(str(path))

    expected = {
        "en": (6, "prompt_lookup"), "de": (2, "small"), "fr": (4, "other"), "uk": (0, "none"),
        "th": (0, "none"), "sw": (4, "small"),
    }  # fmt: skip
    assert {language: drafted(policy, language) for language in expected} == expected
    assert policy.drafter_names == ["small", "prompt_lookup", "other"]
    assert (policy.longest, policy.made_for) == (6, "sha256:1")
    # What is written is read as the same.
    path.write_text(read_policy(path).to_json())
    assert DraftPolicy.read_routes(str(path)) == policy


def test_groups_may_have_temperatures_of_their_drafters(tmp_path):
    path = tmp_path / "policy.json"
    groups = {
        "en": {"drafter": "small", "drafter_temperature": 0.5},
        "de": {"num_speculative_tokens": 2, "drafter_temperature": 0},
        "fr": {"drafter": "other"},
    }
    default = ROUTES["default"] | {"drafter_temperature": 0.8}
    path.write_text(json.dumps(ROUTES | {"groups": groups, "default": default}))
    policy = DraftPolicy.read_routes(str(path))

    def own(language, temperature=1.0):
        instance = SimpleNamespace(task_name="toy", doc={"language": language})
        return policy.temperature_for(instance, DecodeConfig(temperature=temperature))

    expected = {"en": 0.5, "de": 0.0, "fr": 0.8, "sw": 0.8}
    assert {language: own(language) for language in expected} == expected
    assert own("en", temperature=0.0) is None
    assert policy.drafter_settings()["drafter_temperatures"] == {
        "default": 0.8, "groups": {"en": 0.5, "de": 0.0},
    }  # fmt: skip
    path.write_text(read_policy(path).to_json())
    assert DraftPolicy.read_routes(str(path)) == policy
    path.write_text(json.dumps(ROUTES | {"default": default | {"drafter_temperature": 0}}))
    settings = DraftPolicy.read_routes(str(path)).drafter_settings()
    assert settings["drafter_temperatures"] == {"default": 0.0, "groups": {}}
    path.write_text(json.dumps(ROUTES | {"default": default | {"drafter_temperature": -1}}))
    with pytest.raises(ConfigError, match="drafter must be a policy file, got"):
        DraftPolicy.read_routes(str(path))


def test_a_default_without_a_drafter_decodes_strangers_plainly(tmp_path):
    path = tmp_path / "policy.json"
    groups = {"en": {"drafter": "small", "num_speculative_tokens": 3}}
    path.write_text(json.dumps(ROUTES | {"default": {"drafter": "none"}, "groups": groups}))
    policy = DraftPolicy.read_routes(str(path))

    assert drafted(policy, "sw") == (0, "none")
    assert drafted(policy, "en") == (3, "small")
    assert policy.drafter_names == ["small"]


def test_lengths_alone_are_no_drafter(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(EXAMPLE)
    with pytest.raises(ConfigError, match="pass it as num_speculative_tokens="):
        DraftPolicy.read_routes(str(path))
    path.write_text(EXAMPLE_OF_ROUTES)
    assert DraftPolicy.read_routes(str(path)).drafter_names == ["small-model"]
    path.write_text(json.dumps(ROUTES | {"groups": {"en": {"drafter": ""}}}))
    with pytest.raises(ConfigError, match="drafter must be a policy file, got"):
        DraftPolicy.read_routes(str(path))
