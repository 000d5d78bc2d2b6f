"""The loop on tiny real models: what it learns, keeps, resumes, and refuses."""

import dataclasses
import json
import resource
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.artifacts import checkpoint
from lm_eval_specfair.training.artifacts.card import table_of
from lm_eval_specfair.training.artifacts.training_log import progress_text
from lm_eval_specfair.training.checkpoint_choice import CheckpointChoice
from lm_eval_specfair.training.data.items import Item
from lm_eval_specfair.training.group_sums import GroupSums
from lm_eval_specfair.training.job import train_drafter
from lm_eval_specfair.training.options import TrainConfig
from lm_eval_specfair.training.trainer import Trainer

from support.training_runs import SMALL, job, lines, pair, texts, without_seconds


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    train_drafter(job(folder))
    return folder


def test_the_result_is_an_ordinary_folder_with_a_card(finished):
    model = AutoModelForCausalLM.from_pretrained(finished)
    tokenizer = AutoTokenizer.from_pretrained(finished)
    assert len(tokenizer) == model.config.vocab_size
    results = json.loads((finished / "train_results.json").read_text())
    assert set(results["groups"]) == {"a", "b", "c"}
    card = (finished / "README.md").read_text()
    for expected in ("s-cdf", "forward-kl", "Before and after", "| a ", "| b ", "| c "):
        assert expected in card
    names = {path.name for path in finished.iterdir()}
    assert {"train.json", "training_log.jsonl", "model.safetensors"} <= names
    assert not {"checkpoint", "best"} & names
    assert not [path for path in finished.rglob("*") if path.suffix in (".pt", ".bin", ".pkl")]


def test_training_lowers_the_divergence_of_every_group(finished):
    for group in json.loads((finished / "train_results.json").read_text())["groups"].values():
        assert group["kl"]["after"] < group["kl"]["before"]


def test_each_step_logs_weights_and_overlap_of_every_group(finished):
    steps = [line for line in lines(finished) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        assert sum(line["weights"].values()) == pytest.approx(1)
        assert min(line["weights"].values()) >= 0.1 - 1e-9  # the floor of 0.3 over three groups
        assert all(0 < value < 1 for value in line["overlap"].values())


def test_the_loss_is_the_weighted_sum_of_the_groups_divergences(finished):
    # Six rows over three groups, all drawn alike: no rest is carried over.
    for line in lines(finished):
        if "loss" in line:
            expected = sum(line["weights"][name] * line["kl"][name] for name in "abc")
            assert line["loss"] == pytest.approx(expected, rel=1e-5)


def test_figures_in_the_results_are_those_of_the_saved_model_by_brute_force(finished):
    """KL and overlap of the test split, recomputed from the folder without any of our losses."""
    from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
    from lm_eval_specfair.training.data.rows import build_corpus, split_items

    target, _ = pair()
    drafter = AutoModelForCausalLM.from_pretrained(finished)
    encode = lambda text: byte_tokenizer().encode(text, add_special_tokens=False)  # noqa: E731
    splits = split_items(texts(), share=SMALL["split_share"], seed=0)
    corpus = build_corpus(splits, encode, eos=0, length=SMALL["length"])
    results = json.loads((finished / "train_results.json").read_text())
    from lm_eval_specfair.training.data.rows import chosen_rows

    for place, name in enumerate(corpus.names):
        kl, overlap, count = 0.0, 0.0, 0
        for row in chosen_rows(corpus.test, SMALL["probe_rows"]):
            if not row.membership[place]:
                continue
            ids = torch.from_numpy(row.tokens.astype(np.int64))[None]
            with torch.no_grad():
                p, q = (m(input_ids=ids).logits[0].double().softmax(-1) for m in (target, drafter))
            for position in range(row.first - 1, len(row.tokens) - 1):
                kl += float((p[position] * (p[position] / q[position]).log()).sum())
                overlap += float(torch.minimum(p[position], q[position]).sum())
                count += 1
        assert results["groups"][name]["kl"]["after"] == pytest.approx(kl / count, rel=1e-4)
        assert results["groups"][name]["overlap"]["after"] == pytest.approx(
            overlap / count, rel=1e-4
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"weighting": "dro", "optimizer": "muon"},
        {"weighting": "s-cdf-literal", "divergence": "lk"},
        {"weighting": "constrained:epsilon=0.02", "responses": "drafter", "num_probes": 4},
    ],
    ids=["dro-muon", "literal", "on-policy"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, settings):
    settings = settings | {"max_response_tokens": 4, "temperatures": (1.0,)}
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    train_drafter(job(undisturbed, **settings))
    assert train_drafter(job(stopped, **settings), stop_after=3) is None
    assert (stopped / "checkpoint").is_dir()
    assert not (stopped / "model.safetensors").exists()
    train_drafter(job(stopped, **settings), resume=True)

    ours, theirs = (load_file(f / "model.safetensors") for f in (stopped, undisturbed))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert without_seconds(stopped) == without_seconds(undisturbed)


def test_parts_of_a_batch_add_up_to_the_whole(tmp_path):
    models = pair(torch.float64)
    found = []
    for micro_rows in (6, 4, 1):
        folder = tmp_path / str(micro_rows)
        train_drafter(job(folder, models=models, micro_rows=micro_rows))
        found.append(load_file(folder / "model.safetensors"))
    for other in found[1:]:
        for name in found[0]:
            torch.testing.assert_close(other[name], found[0][name], rtol=1e-9, atol=1e-11)


def test_the_target_does_not_change(tmp_path):
    made = job(tmp_path / "out")
    before = {name: value.clone() for name, value in made.target.state_dict().items()}
    train_drafter(made)
    for name, value in made.target.state_dict().items():
        assert torch.equal(value, before[name])


def test_gradient_checkpointing_changes_nothing(tmp_path, finished):
    train_drafter(job(tmp_path / "out", gradient_checkpointing=True))
    ours = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in load_file(finished / "model.safetensors").items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_computes_layers_twice(tmp_path):
    """Else it would save nothing, and change nothing either."""
    counts = {}
    for recomputed in (False, True):
        made = job(tmp_path / str(recomputed), gradient_checkpointing=recomputed, num_probes=1)
        calls = []
        (layer,) = made.drafter.model.layers
        layer.self_attn.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(torch.is_grad_enabled())
        )
        train_drafter(made)
        counts[recomputed] = sum(calls)
    assert counts[False] == 4  # steps of one part each
    assert counts[True] == 8


def test_bf16_is_for_matrix_products_and_weights_stay_wide(tmp_path, finished):
    made, seen = job(tmp_path / "out", mixed_precision="bf16"), set()
    layer = made.drafter.model.layers[0]
    layer.self_attn.q_proj.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    layer.input_layernorm.register_forward_hook(lambda module, *_: seen.add(module.weight.dtype))
    of_target = set()
    projection = made.target.model.layers[0].self_attn.q_proj
    projection.register_forward_hook(lambda _, __, out: of_target.add(out.dtype))
    train_drafter(made)
    assert seen == {torch.bfloat16, torch.float32}
    assert torch.bfloat16 in of_target
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    ours, theirs = (
        np.array([line["loss"] for line in lines(folder) if "loss" in line])
        for folder in (tmp_path / "out", finished)
    )
    # A product of bf16 numbers is off by 2^-8 or so, its sums by less.
    assert ours == pytest.approx(theirs, rel=1e-2)
    assert not (ours == theirs).all()


# ---------------------------------------------------------------- what is seen on the way


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_is_told_what_the_log_says(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "out"
    train_drafter(dataclasses.replace(job(folder), tracker="tensorboard"))
    told = accumulators.EventAccumulator(str(folder / "specfair")).Reload()
    logged = {}
    for line in lines(folder):
        for key in ("loss", "weights", "overlap", "kl", "probe"):
            logged |= {(name, line["step"]): x for name, x in _leaves(line.get(key), key)}
    assert len(logged) > 40
    for (name, step), value in logged.items():
        found = {event.step: event.value for event in told.Scalars(name)}
        assert found[step] == pytest.approx(value, rel=1e-5), name


def _leaves(value, path):
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in _leaves(each, f"{path}/{key}")]
    return [] if value is None else [(path, value)]


@pytest.mark.filterwarnings("ignore:.*no supported trackers")  # accelerate would go on without it
def test_a_tracker_whose_package_is_missing_is_named(tmp_path, monkeypatch):
    from accelerate import accelerator

    monkeypatch.setattr(accelerator, "filter_trackers", lambda *_: [])
    with pytest.raises(ConfigError, match=r"--tracker wandb needs its package.*pip install wandb"):
        train_drafter(dataclasses.replace(job(tmp_path / "out"), tracker="wandb"))


def test_the_progress_bar_shows_the_overlap_of_every_group(tmp_path, capsys):
    train_drafter(job(tmp_path / "out"))
    bar = capsys.readouterr().err
    last = [line for line in lines(tmp_path / "out") if "loss" in line][-1]
    shown = " ".join(f"{name} {value:.2f}" for name, value in last["overlap"].items())
    assert f"loss {last['loss']:.3f} overlap {shown}" in bar
    assert "4/4" in bar


def test_of_many_groups_the_progress_bar_shows_the_ends_and_the_mean():
    overlaps = np.array([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.0])
    sums = GroupSums(np.zeros((8, 5)))
    sums.values[:, 0], sums.values[:, 2] = 10, 10 * overlaps
    sums.values[7, 0] = 0  # not in this batch
    text = progress_text(tuple("abcdefgh"), 1.0, sums)
    assert text == "loss 1.000 overlap b 0.10 f 0.20 .. g 0.80 c 0.90 mean 0.50"


# ---------------------------------------------------------------- what is kept


def test_the_kept_step_has_the_best_worst_group_whose_mean_did_not_fall():
    choice = CheckpointChoice(tolerance=0.1)
    choice.start(np.array([1.0, 2.0]))  # the mean may fall to 1.35
    assert choice.offer(1, np.array([1.2, 1.6]))
    assert not choice.offer(2, np.array([1.3, 1.3]))  # better worst, mean 1.3
    assert not choice.offer(3, np.array([1.1, 3.0]))  # better mean, worse worst
    assert choice.offer(4, np.array([1.3, 1.4]))
    assert not choice.offer(5, np.array([1.3, 1.9]))  # a tie is no reason to go on
    assert choice.step == 4


def test_where_training_helps_nobody_the_drafter_stays_as_it_was(tmp_path):
    made = job(tmp_path / "out", learning_rate=0.9, max_grad_norm=1e9)
    before = {name: value.clone() for name, value in made.drafter.state_dict().items()}
    train_drafter(made)
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert results["kept_step"] == 0
    for name, value in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(value, before[name]), name


# ---------------------------------------------------------------- options


def test_the_cache_stands_for_the_target_and_says_what_it_misses(tmp_path):
    train_drafter(job(tmp_path / "wide", cache_top_k=259))
    train_drafter(job(tmp_path / "narrow", cache_top_k=4))
    train_drafter(job(tmp_path / "live"))
    # All but one token and a bucket for the one are the whole distribution.
    live = [line["loss"] for line in lines(tmp_path / "live") if "loss" in line]
    wide = [line["loss"] for line in lines(tmp_path / "wide") if "loss" in line]
    narrow = [line["loss"] for line in lines(tmp_path / "narrow") if "loss" in line]
    assert wide == pytest.approx(live, rel=1e-3)
    assert narrow[0] < live[0]  # lumping outcomes can only lower a divergence
    for folder, complete in (("wide", True), ("narrow", False)):
        cached = json.loads((tmp_path / folder / "train_results.json").read_text())["teacher_cache"]
        assert (cached["kl_seen"] == pytest.approx(cached["kl"], rel=1e-4)) == complete
        assert cached["kl_seen"] <= cached["kl"] * (1 + 1e-4)
    assert "most likely tokens" in (tmp_path / "narrow" / "README.md").read_text()


def test_adapters_are_merged_into_an_ordinary_model(tmp_path):
    pytest.importorskip("peft")
    from lm_eval_specfair.training.model_setup import add_lora

    made = job(tmp_path / "out")
    plain = {name: value.clone() for name, value in made.drafter.state_dict().items()}
    add_lora(made.drafter, 2)
    train_drafter(made)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert found.keys() == plain.keys()
    changed = {name for name in plain if not torch.equal(found[name], plain[name])}
    assert changed
    assert all("proj" in name for name in changed)  # no head, embedding or norm
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert results["kept_step"] > 0


def test_missing_packages_are_named(monkeypatch):
    import importlib.util

    from lm_eval_specfair.training import model_setup

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--lora-rank needs peft.*pip install peft"):
        model_setup.add_lora(pair()[1], 4)
    with pytest.raises(ConfigError, match="--quantize-target 4bit needs bitsandbytes"):
        model_setup.loading_arguments("4bit", None)
    with pytest.raises(ConfigError, match=r"--quantize-target int8 needs torchao.*pip install"):
        model_setup.loading_arguments("int8", None)
    with pytest.raises(ConfigError, match="8bit, 4bit, int8, int4"):
        model_setup.loading_arguments("2bit", None)


def test_prompts_are_answered_once_by_the_target(tmp_path):
    items = [
        Item(item=f"{n}", membership=((group, 1.0),), prompt=f"{group} says {n}")
        for n in range(8)
        for group in "ab"
    ]
    settings = {"items": items, "max_response_tokens": 5, "length": 32}
    train_drafter(job(tmp_path / "out", **settings), stop_after=1)
    written = tmp_path / "out" / "responses.jsonl"
    before = written.read_bytes(), written.stat().st_mtime_ns
    assert len(before[0].splitlines()) == 16
    train_drafter(job(tmp_path / "out", **settings), resume=True)
    assert (written.read_bytes(), written.stat().st_mtime_ns) == before


# ---------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    made, calls = job(tmp_path / "out", checkpoint_seconds=0.0), []
    original = Trainer._learn

    def broken_after_two(self):
        calls.append(1)
        if len(calls) == 3:
            with torch.no_grad():
                next(iter(made.drafter.parameters()))[0] = float("nan")
        return original(self)

    monkeypatch.setattr(Trainer, "_learn", broken_after_two)
    with pytest.raises(ConfigError, match=r"loss became nan at step 3.*--learning-rate"):
        train_drafter(made)
    numbers = json.loads((tmp_path / "out" / "checkpoint" / "state.json").read_text())
    assert numbers["step"] == 2
    saved = load_file(tmp_path / "out" / "checkpoint" / "state.safetensors")
    assert all(bool(value.isfinite().all()) for value in saved.values())


@pytest.fixture
def no_room():
    """Files can't grow beyond a few kB, as on a full disk, while this holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_last_good_checkpoint_and_is_resumed(tmp_path, no_room, finished):
    folder = tmp_path / "out"
    train_drafter(job(folder), stop_after=1)
    good = (folder / "checkpoint" / "state.safetensors").read_bytes()
    no_room(20_000)
    with pytest.raises(ConfigError, match=r"cannot write.*--resume"):
        train_drafter(job(folder), resume=True)
    no_room(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert (folder / "checkpoint" / "state.safetensors").read_bytes() == good
    assert not list(folder.glob("*.writing"))
    train_drafter(job(folder), resume=True)
    ours, theirs = (load_file(f / "model.safetensors") for f in (folder, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(tmp_path, no_room):
    folder = tmp_path / "checkpoint"
    checkpoint.write(folder, {"x": torch.ones(10)}, {"step": 1})
    no_room(20_000)
    with pytest.raises(ConfigError, match="the last good checkpoint is kept"):
        checkpoint.write(folder, {"x": torch.zeros(100_000)}, {"step": 2})
    tensors, numbers = checkpoint.read(folder)
    assert numbers == {"step": 1}
    assert torch.equal(tensors["x"], torch.ones(10))


def test_a_checkpoint_of_another_version_is_refused_in_a_line(tmp_path):
    folder = tmp_path / "out"
    train_drafter(job(folder), stop_after=1)
    path = folder / "checkpoint" / "state.json"
    numbers = json.loads(path.read_text())
    assert numbers.pop("schema_version") == 2
    path.write_text(json.dumps(numbers))  # the first version said none
    with pytest.raises(ConfigError, match=r"schema version 1, but this is version 2: finish it"):
        train_drafter(job(folder), resume=True)


def test_older_runs_name_settings_and_results_otherwise(tmp_path, finished):
    folder = tmp_path / "old"
    shutil.copytree(finished, folder)
    settings = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(settings | {"quantise_target": "int8"}))
    made = dataclasses.replace(job(folder), described={"quantize_target": "int8"})
    results = train_drafter(made, resume=True)
    assert results == folder / "train_results.json"
    other = dataclasses.replace(job(folder), described={"quantize_target": "int4"})
    with pytest.raises(ConfigError, match=r"quantize_target differ .*'int8' then, 'int4' now"):
        train_drafter(other, resume=True)
    text = results.read_text()
    older = json.loads(text.replace("textbook_speedup", "modelled_speedup"))
    assert table_of(older, "simple") == table_of(json.loads(text), "simple")


def test_a_folder_is_never_overwritten_nor_resumed_with_other_settings(tmp_path, finished):
    with pytest.raises(ConfigError, match=r"new or empty folder.*--resume"):
        train_drafter(job(finished))
    with pytest.raises(ConfigError, match=r"tokens differ \(tokens: 384 then, 480 now\)"):
        train_drafter(job(finished, tokens=480), resume=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="--resume found no run"):
        train_drafter(job(tmp_path / "other"), resume=True)
    before = (finished / "model.safetensors").read_bytes()
    assert train_drafter(job(finished), resume=True) == finished / "train_results.json"
    assert (finished / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "tokens must be a whole number >= 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"divergence": "kl"}, "forward-kl, reverse-kl"),
        ({"responses": "mine"}, "given, target, drafter"),
        ({"temperatures": ()}, "temperatures"),
        ({"split_share": 0.4}, "split_share"),
        ({"cache_top_k": 3, "responses": "drafter"}, "exclude each other"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


def test_configurations_are_values():
    assert msgspec.structs.replace(TrainConfig(), seed=3).num_steps == 2_000_000 // (32 * 256)


def test_the_card_models_the_speedup_that_training_was_asked_for(tmp_path):
    train_drafter(job(tmp_path / "out", num_speculative_tokens=2, cost_ratio=0.25))
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert results["num_speculative_tokens"] == 2
    for group in results["groups"].values():
        alpha = group["overlap"]["after"]
        expected = (1 + alpha + alpha**2) / (1 + 2 * 0.25)
        assert group["textbook_speedup"]["after"] == pytest.approx(expected, rel=1e-6)


def test_the_probe_split_is_measured_as_often_as_asked(tmp_path):
    steps = 11
    train_drafter(job(tmp_path / "out", tokens=steps * 6 * 16, num_probes=3))
    probed = [line["step"] for line in lines(tmp_path / "out") if "probe" in line]
    assert probed == [0, 4, 8, 11]


def test_a_draft_pass_costs_what_its_parameters_say(tmp_path):
    target, drafter = pair()
    train_drafter(job(tmp_path / "out", models=(target, drafter)))
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    # Tied weights count once.
    sizes = [len(torch.cat([p.flatten() for p in m.parameters()])) for m in (drafter, target)]
    assert results["cost_ratio"] == pytest.approx(sizes[0] / sizes[1])
