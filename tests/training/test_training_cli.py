"""`specfair train` as users meet it."""

import functools
import json
import re
from typing import get_args

import lm_eval.tasks
import pytest
import torch
from transformers import AutoModelForCausalLM

from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, disturbed, llama
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.text_sources import read_source
from lm_eval_specfair.training.losses import DIVERGENCES
from lm_eval_specfair.training.options import (
    DivergenceName,
    Quantization,
    TrainConfig,
    WeightingName,
)
from lm_eval_specfair.training.weighting import RULES

from support.training_runs import fresh_accelerate, write_lines

SMALL = ["--tokens", "192", "--rows", "6", "--length", "16", "--probe-rows", "2"]


@pytest.fixture(autouse=True)
def accelerate():
    fresh_accelerate()


@pytest.fixture
def data(tmp_path):
    rows = [
        {"text": f"{word} {number} " * 3, "group": word, "item": number}
        for number in range(20)
        for word in ("alpha", "beta")
    ]
    return write_lines(tmp_path / "data.jsonl", rows)


def train(pair_folder, data, out, *more) -> int:
    pair = ["--target", str(pair_folder / "target"), "--drafter", str(pair_folder / "drafter")]
    return main(["train", *pair, "--data", str(data), "--out", str(out), *SMALL, *more])


def test_train_prints_before_and_after_and_names_the_folder(pair_folder, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(pair_folder, data, out, "--weighting", "s-cdf:floor=0.2,unit=byte") == 0
    printed = capsys.readouterr()
    assert "alpha" in printed.out
    assert "→" in printed.out
    assert f"wrote {out}" in printed.err
    settings = json.loads((out / "train.json").read_text())
    assert settings["weighting"] == "s-cdf:floor=0.2,unit=byte"
    assert settings["target_weights"].startswith("sha256:")
    assert settings["data"] == str(data)
    assert train(pair_folder, data, out, "--weighting", "s-cdf:floor=0.2,unit=byte") == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weighting", "fair"], "weighting must be one of s-cdf"),
        (["--divergence", "l2"], "--divergence: invalid choice: 'l2' (choose from"),
        (["--temperatures", "0;1"], "--temperatures must be numbers"),
        (["--tracker", "abacus"], "--tracker must be one of"),
        (["--lora-rank", "0"], "--lora-rank: expected a whole number of at least 1"),
    ],
)
def test_bad_arguments_end_with_status_2_and_one_line(
    pair_folder, data, tmp_path, capsys, more, message
):
    assert train(pair_folder, data, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_help_shows_the_default_or_the_choices_of_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    described = printed.partition("options: ")[2].partition("examples:")[0]
    options = re.split(r" (?=--[a-z-]+ )", described)
    names = {option.split()[0].rstrip(",") for option in options}
    fields = {f"--{name.replace('_', '-')}" for name in TrainConfig.__struct_fields__}
    # Not offered: what nobody should need to change.
    assert fields - names == {
        "--warmup", "--decay", "--max-grad-norm", "--split-share", "--checkpoint-seconds"
    }  # fmt: skip
    assert "quantise" not in printed
    for option in options:
        name = option.split()[0]
        if name not in ("-h,", "--help", "--data", "--out", "--output", "--resume"):
            assert "(default: " in option, option
    for choices in (get_args(DivergenceName), get_args(Quantization), ("adamw", "muon")):
        assert "{" + ",".join(choices) + "}" in printed
    assert all(name in printed.replace("- ", "-") for name in get_args(WeightingName))


def test_what_can_be_named_is_what_there_is():
    assert tuple(RULES) == get_args(WeightingName)
    assert tuple(DIVERGENCES) == get_args(DivergenceName)


@pytest.mark.slow  # torchao takes five seconds to import
@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize(("kind", "levels"), [("int8", 256), ("int4", 16)])
def test_a_target_is_quantised_by_torchao_as_it_is_loaded(
    pair_folder, tmp_path, kind, levels, monkeypatch
):
    pytest.importorskip("torchao")
    from lm_eval_specfair.training import job as jobs

    trained, original = [], jobs.train_drafter
    monkeypatch.setattr(
        jobs, "train_drafter", lambda job, **more: original(trained.append(job) or job)
    )
    rows = [
        {"prompt": f"{word} {number}", "group": word, "item": number}
        for number in range(20)
        for word in ("alpha", "beta")
    ]
    prompts = write_lines(tmp_path / "prompts.jsonl", rows)
    more = ("--quantize-target", kind, "--temperatures", "0", "--max-response-tokens", "4")
    assert train(pair_folder, prompts, tmp_path / "out", *more) == 0

    # An ordinary folder was read; each row (or 32 of its weights) has that many levels, no more.
    ((target, whole),) = [(job.target, llama_of(pair_folder)) for job in trained]
    names = [n for n, m in whole.named_modules() if n.endswith("_proj")]
    for name in names:
        ours = target.get_submodule(name).weight.dequantize()
        theirs = whole.get_submodule(name).weight
        groups = ours.reshape(-1, 32) if kind == "int4" else ours
        assert max(len(group.unique()) for group in groups) <= levels
        steps = theirs.reshape(groups.shape).abs().amax(1, keepdim=True) * 2 / (levels - 1)
        assert bool(((ours - theirs).reshape(groups.shape).abs() <= steps).all())
        assert not torch.equal(ours, theirs)
    # The target that wrote the responses is the quantised one.
    written = [
        json.loads(x) for x in (tmp_path / "out" / "responses.jsonl").read_text().split("\n") if x
    ]
    tokenizer = byte_tokenizer()
    for line in written[:4]:
        ids = tokenizer.encode(line["prompt"], add_special_tokens=False)
        for token in line["response_tokens"]:
            scores = target(input_ids=torch.tensor([ids])).logits[0, -1]
            assert token == int(scores.argmax())
            ids.append(token)
    assert json.loads((tmp_path / "out" / "train.json").read_text())["quantize_target"] == kind


def llama_of(pair_folder):
    return AutoModelForCausalLM.from_pretrained(pair_folder / "target")


def test_one_group_and_another_tokenizer_are_refused(pair_folder, data, tmp_path, capsys):
    one = write_lines(tmp_path / "one.jsonl", [{"text": "x", "group": "en"}] * 9)
    assert train(pair_folder, one, tmp_path / "out") == 2
    assert "at least two groups" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

    other = tmp_path / "other"
    disturbed(llama(0, vocab_size=261), 0.1).save_pretrained(other)
    byte_tokenizer(["Ġx", "Ġy", "Ġz", "Ġw"]).save_pretrained(other)
    given = ["train", "--target", str(pair_folder / "target"), "--drafter", str(other)]
    assert main([*given, "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "another tokenizer" in capsys.readouterr().err
    assert main(["train", "--target", "x", "--data", str(data), "--out", "y"]) == 2
    assert "--drafter is required" in capsys.readouterr().err


@pytest.fixture
def quick_tasks(monkeypatch):
    """lm-eval's manager without its own 10,000 task files, which take ten seconds to read."""
    quick = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", quick)


TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {train}
    test: {test}
{training_split}
test_split: test
output_type: generate_until
doc_to_text: "Say {{{{word}}}}:"
doc_to_target: "{{{{word}}}}"
generation_kwargs:
  until: []
"""


def task_folder(folder, *names, training_split="training_split: train"):
    files = {
        split: write_lines(folder / f"{split}.jsonl", [{"word": f"{split}{n}"} for n in range(4)])
        for split in ("train", "test")
    }
    for name in names:
        text = TASK.format(name=name, training_split=training_split, **files)
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_prompts_of_tasks_are_grouped_by_language_and_shared_by_document(tmp_path, quick_tasks):
    folder = task_folder(tmp_path, "words_sw", "words_fr")
    items = read_source("task:words_sw,words_fr", task_folders=[str(folder)])
    assert [(i.item, i.membership[0][0], i.prompt, i.response) for i in items[:2]] == [
        ("words/0", "fr", "Say train0:", None),
        ("words/1", "fr", "Say train1:", None),
    ]
    assert {i.membership[0][0] for i in items} == {"fr", "sw"}
    assert len({i.item for i in items}) == 4


def test_a_tasks_test_documents_are_not_trained_on(tmp_path, quick_tasks):
    folder = task_folder(tmp_path, "words_sw", training_split="")
    with pytest.raises(ConfigError, match="neither training nor validation"):
        read_source("task:words_sw", task_folders=[str(folder)])
    with pytest.raises(ConfigError, match="lm_eval ls tasks"):
        read_source("task:no_such_task", task_folders=[str(folder)])
