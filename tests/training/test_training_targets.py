"""Targets that do not fit: mapped to devices and disk, or recorded once and not loaded again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding import loading
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.distil import SplitModel
from lm_eval_specfair.training.job import train
from lm_eval_specfair.training.model_setup import loading_arguments
from lm_eval_specfair.training.options import TrainConfig

from support.training_runs import fresh_accelerate, lines, without_seconds, write_lines

SMALL = {"tokens": 192, "rows": 6, "length": 16, "probe_rows": 2, "max_response_tokens": 4}
SPLIT = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
SPLIT |= {"model.layers.1": "disk", "model.norm": "cpu", "lm_head": "disk"}


@pytest.fixture(autouse=True)
def accelerate():
    fresh_accelerate()


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"prompt": f"{word} {number}", "group": word, "item": number}
        for number in range(20)
        for word in ("alpha", "beta")
    ]
    return str(write_lines(tmp_path / "prompts.jsonl", rows))


def trained(pair_folder, data, out, target=None, settings=(), **more):
    fresh_accelerate()
    return train(
        data,
        out,
        TrainConfig(**(SMALL | dict(settings))),
        target=target or str(pair_folder / "target"),
        drafter=str(pair_folder / "drafter"),
        **more,
    )


# ---------------------------------------------------------------- device maps


@pytest.mark.parametrize("device_map", ["cpu", json.dumps(SPLIT)], ids=["cpu", "disk"])
def test_a_mapped_target_teaches_what_the_whole_one_teaches(
    pair_folder, prompts, tmp_path, device_map
):
    trained(pair_folder, prompts, tmp_path / "whole")
    trained(pair_folder, prompts, tmp_path / "mapped", target_device_map=device_map)
    whole, mapped = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "mapped"))
    for name in whole:
        assert torch.equal(mapped[name], whole[name]), name
    assert without_seconds(tmp_path / "mapped") == without_seconds(tmp_path / "whole")


def test_weights_on_disk_are_not_in_memory_and_the_head_is_still_apart(pair_folder):
    arguments = loading_arguments(None, json.dumps(SPLIT))
    target = loading.load_model(str(pair_folder / "target"), "target", **arguments)
    on_disk = {name for name, p in target.named_parameters() if p.is_meta}
    assert "lm_head.weight" in on_disk
    assert any(name.startswith("model.layers.1.") for name in on_disk)
    assert SplitModel(target).head is not None


def test_a_map_that_is_none_is_refused(pair_folder, prompts, tmp_path):
    with pytest.raises(ConfigError, match=r"--target-device-map must be auto, a device, or a JSON"):
        trained(pair_folder, prompts, tmp_path / "out", target_device_map='{"model": ')
    offloaded = json.dumps({"model": "disk", "lm_head": "cpu"})
    with pytest.raises(ConfigError, match=r"--target-device-map must keep .*input embeddings"):
        trained(pair_folder, prompts, tmp_path / "out", target_device_map=offloaded)


# ---------------------------------------------------------------- recorded teachers


@pytest.fixture
def recorded(pair_folder, prompts, tmp_path):
    trained(pair_folder, prompts, tmp_path / "first", teacher_cache=tmp_path / "recorded")
    return tmp_path / "recorded"


def test_later_runs_learn_the_same_without_the_targets_weights(
    pair_folder, prompts, tmp_path, recorded
):
    target = tmp_path / "target"
    shutil.copytree(pair_folder / "target", target)
    for weights in target.glob("*.safetensors"):
        weights.unlink()
    record = json.loads((recorded / "teacher_cache.json").read_text())
    # The names of targets are compared; this one is the same but for its weights.
    record["target"] = str(target)
    (recorded / "teacher_cache.json").write_text(json.dumps(record))
    trained(pair_folder, prompts, tmp_path / "later", str(target), teacher_cache=recorded)
    first, later = (load_file(tmp_path / n / "model.safetensors") for n in ("first", "later"))
    for name in first:
        assert torch.equal(later[name], first[name]), name
    assert without_seconds(tmp_path / "later") == without_seconds(tmp_path / "first")
    results = [
        json.loads((tmp_path / name / "train_results.json").read_text())
        for name in ("first", "later")
    ]
    assert results[0]["cost_ratio"] == results[1]["cost_ratio"]
    assert results[0]["groups"] == results[1]["groups"]
    settings = json.loads((tmp_path / "later" / "train.json").read_text())
    assert settings["target_weights"].startswith("sha256:")


def test_a_record_of_almost_all_tokens_is_the_target(pair_folder, prompts, tmp_path):
    few = {"cache_top_k": 259}
    trained(pair_folder, prompts, tmp_path / "live")
    cache = tmp_path / "recorded"
    trained(pair_folder, prompts, tmp_path / "all", settings=few, teacher_cache=cache)
    for live, recorded in zip(lines(tmp_path / "live"), lines(tmp_path / "all"), strict=True):
        for key in ("loss", "overlap", "kl", "probe"):
            if key in live:
                assert _flat(recorded[key]) == pytest.approx(_flat(live[key]), rel=1e-3)


def _flat(value):
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _flat(inner)]
    return [value]


def test_recording_says_its_size_and_what_it_misses(pair_folder, prompts, tmp_path, caplog):
    cache = tmp_path / "recorded"
    trained(pair_folder, prompts, tmp_path / "out", teacher_cache=cache)
    size = (cache / "teacher_cache.safetensors").stat().st_size / 2**20
    said = next(r for r in caplog.records if "recording the target's 64 most likely" in r.message)
    assert f"in {cache}" in said.message
    assert said.args[2] == pytest.approx(size, rel=0.02)
    assert "KL at the start" in caplog.text
    assert (cache / "responses.jsonl").exists()
    assert cache.is_dir()
    assert not (tmp_path / "out" / "responses.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 10}, "was recorded for other rows"),
        ({"cache_top_k": 5}, "has the 64 most likely tokens of .*got --cache-top-k 5"),
        ({"seed": 1}, "has responses to other prompts"),
    ],
)
def test_a_record_of_something_else_is_refused(
    pair_folder, prompts, tmp_path, recorded, settings, message
):
    with pytest.raises(ConfigError, match=message):
        trained(pair_folder, prompts, tmp_path / "out", settings=settings, teacher_cache=recorded)


def test_a_record_of_another_target_or_a_broken_one_is_refused(
    pair_folder, prompts, tmp_path, recorded
):
    other = tmp_path / "other"
    shutil.copytree(pair_folder / "target", other)
    llama(5).save_pretrained(other)
    with pytest.raises(ConfigError, match=rf"most likely tokens of .*--target {other}"):
        trained(pair_folder, prompts, tmp_path / "out", str(other), teacher_cache=recorded)
    (recorded / "teacher_cache.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not a teacher cache"):
        trained(pair_folder, prompts, tmp_path / "out", teacher_cache=recorded)


def test_the_verb_records_and_learns_from_a_record(pair_folder, prompts, tmp_path, capsys):
    models = ["--target", str(pair_folder / "target"), "--drafter", str(pair_folder / "drafter")]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    cache = ["--teacher-cache", str(tmp_path / "recorded"), "--target-device-map", "cpu"]
    for out in ("one", "two"):
        fresh_accelerate()
        given = ["--data", prompts, "-o", str(tmp_path / out), *models, *sizes, *cache]
        assert main(["train", *given]) == 0
        assert "textbook speed-up" in capsys.readouterr().out
    one, two = (
        json.loads((tmp_path / x / "train_results.json").read_text()) for x in ("one", "two")
    )
    assert one == two
