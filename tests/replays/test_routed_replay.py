"""A replayed policy: the records of a run that was decoded with it.

python -m pytest tests/replays/test_routed_replay.py
"""

import json

import pytest
from msgspec import structs

from lm_eval_specfair.cli import main
from lm_eval_specfair.records import read_run

from support.evaluations import evaluate, records_of, specfair, toy_task

WORDS = {"de": "eins", "en": "one", "fr": "un", "sw": "moja", "uk": "odyn"}
DOCUMENTS = [
    {"prompt": f"{word} {number} {word} {word}", "reference": "", "language": language}
    for number in range(3)
    for language, word in WORDS.items()
]
POLICY = {
    "schema_version": 2,
    "group_by": "language",
    "default": {"drafter": "prompt_lookup", "num_speculative_tokens": 3},
    "groups": {
        "de": {"drafter": "small", "num_speculative_tokens": 2},
        "en": {"drafter": "suffix_lookup:2+small"},
        "fr": {"drafter": "none"},
        "sw": {"num_speculative_tokens": 1},
        "xx": {"drafter": "small", "num_speculative_tokens": 7},
    },
}
# What a replay does not measure or know: what was drafted after the rejected token, say.
UNMEASURED = {"num_active_rows_sum", "num_covered_tokens", "discarded_token_ids"}


@pytest.fixture
def policy(pair_folder, tmp_path):
    """Beside its small model, so that names are found from there."""
    (tmp_path / "small").symlink_to(pair_folder / "drafter")
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(POLICY))
    return file


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.8}])
def test_records_are_those_of_decoding_with_the_policy(
    pair_folder, policy, tmp_path, sampling, capsys, caplog
):
    options = {"until": [], "max_gen_toks": 12, **sampling}
    task = [toy_task("toy", DOCUMENTS, generation_kwargs=options)]
    decoded = specfair(pair_folder, tmp_path / "decoded", drafter=str(policy), batch_size=4)
    evaluate(decoded, task)
    # Of a sampled run, the texts are its own: other drafters draw others.
    command = ["replay", str(tmp_path / "decoded"), "--drafter", str(policy)]
    command += ["--target", str(pair_folder / "target"), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert "15 texts were replayed" in caplog.text

    ours, theirs = records_of(tmp_path / "out"), records_of(tmp_path / "decoded")
    assert ours.keys() == theirs.keys()
    for name, record in ours.items():
        expected = theirs[name]
        assert record.settings == expected.settings
        if sampling:  # what is kept is drawn anew
            continue
        for field, value in structs.asdict(record).items():
            if field.endswith("_seconds") or field in UNMEASURED or "baseline" in field:
                continue
            other = getattr(expected, field)
            if isinstance(value, float):
                assert value == pytest.approx(other, rel=1e-3, abs=1e-4), field
            elif field != "overlap_per_position":
                assert value == other, (field, name)
    settings = [read_run(tmp_path / name)["settings"] for name in ("out", "decoded")]
    for key in ("num_speculative_tokens", "routes", "drafter"):
        assert settings[0][key] == settings[1][key]
    known = settings[0]["drafter_weights"]
    assert known["small"] == settings[1]["drafter_weights"]["small"]
    assert not (tmp_path / "out" / "routes").exists()
    # Every other verb takes it.
    assert main(["report", str(tmp_path / "out"), "--min-requests", "1"]) == 0
    assert main(["trace", str(tmp_path / "out")]) == 0
    assert main(command) == 2
    assert "already holds this replay" in capsys.readouterr().err


def test_a_killed_replay_of_a_policy_goes_on(pair_folder, policy, tmp_path, monkeypatch):
    task = [toy_task("toy", DOCUMENTS)]
    evaluate(specfair(pair_folder, tmp_path / "run", drafter="prompt_lookup"), task)
    from lm_eval_specfair.replays import routed_replay

    def killed(*_):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    command = ["replay", str(tmp_path / "run"), "--drafter", str(policy), "-o", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(routed_replay, "_merge", killed)
        assert main(command) != 0
    assert not (out / "run.json").exists()
    assert main(command) == 0
    assert len(records_of(out)) == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--drafter", "prompt_lookup"], "replay it by itself"),
        (
            ["--num-speculative-tokens", "2"],
            "--num-speculative-tokens is for drafters by themselves",
        ),
        (["--drafter-temperature", "0.5"], "--drafter-temperature is for drafters by themselves"),
        (["--measure-costs", "--target", "embedded"], "--measure-costs is for drafters"),
        (["--documents", "98/99"], "no text is left"),
    ],
)
def test_what_does_not_go_with_a_policy_is_refused(policy, tmp_path, capsys, more, message):
    source = tmp_path / "texts.jsonl"
    line = {"prompt_token_ids": [1, 2], "response_token_ids": [3, 4, 5], "language": "fr"}
    source.write_text(json.dumps(line) + "\n")
    command = ["replay", str(source), "--drafter", str(policy), "-o", str(tmp_path / "out")]
    assert main([*command, *more]) == 2
    assert message in capsys.readouterr().err
    policy.write_text(json.dumps({**POLICY, "groups": {"fr": {"drafter_temperature": 0.5}}}))
    assert main(command) == 2
    assert "drafter_temperature" in capsys.readouterr().err


def test_texts_that_are_not_the_targets_are_named(pair_folder, policy, tmp_path):
    source = tmp_path / "texts.jsonl"
    lines = [
        {"prompt_token_ids": [1, 2], "response_token_ids": [3, 4, 5, n], "language": language}
        for n, language in enumerate(WORDS)
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["replay", str(source), "--drafter", str(policy), "-o", str(tmp_path / "out")]
    assert main([*command, "--target", str(pair_folder / "target")]) == 0
    named = (tmp_path / "out" / "departures.jsonl").read_text().splitlines()
    assert len({json.loads(line)["request_id"] for line in named}) == len(WORDS)
    assert read_run(tmp_path / "out")["totals"]["num_texts_not_the_targets"] == len(WORDS)
