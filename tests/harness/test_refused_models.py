"""Models that cannot be decoded, or are not in order: one line with the reason, before a run."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from lm_eval_specfair.conformance.tiny_families import built, configuration
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.decoding.loading import load_model
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model import SpecFairLM


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of whole models by name."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = byte_tokenizer()
    encoder_decoder = T5Config(
        vocab_size=260, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4
    )
    damaged = copy.deepcopy(llama(0))
    damaged.model.layers[0].mlp.up_proj.weight.data[:] = torch.nan
    models = {
        "llama": llama(0),
        "damaged": damaged,
        "gemma3": built(configuration("gemma3", vocab_size=260)),
        "gpt2": built(configuration("gpt2", vocab_size=260)),
        "t5": T5ForConditionalGeneration(encoder_decoder),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def edited(source: Path, destination: Path, **changes) -> Path:
    shutil.copytree(source, destination)
    path = destination / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return destination


def cut(source: Path, destination: Path) -> Path:
    shutil.copytree(source, destination)
    path = destination / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return destination


def without_weights(folder: Path) -> Path:
    """As long as nothing reads them, nobody misses them."""
    (folder / "model.safetensors").unlink()
    return folder


def complaint(tmp_path, pretrained, drafter="prompt_lookup", **arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        SpecFairLM(
            pretrained=str(pretrained), drafter=str(drafter), device="cpu",
            records_dir=str(tmp_path / "run"), **arguments,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    return str(caught.value)


EDITS = {
    "window null": ("gemma3", {"sliding_window": None}, "windows cannot be switched off like this"),
    "window off": ("gemma3", {"layer_types": ["full_attention"] * 4}, "it is another model"),
    "window of text": ("gemma3", {"sliding_window": "x"}, "Field 'sliding_window' with value 'x'"),
    "unknown type": ("llama", {"model_type": "nonsense"}, "does not recognize this architecture"),
    "few positions": ("llama", {"max_position_embeddings": 8}, "has 8 positions, of which 9"),
}


@pytest.mark.parametrize("role", ["target", "drafter"])
@pytest.mark.parametrize("edit", EDITS)
def test_a_configuration_is_refused_before_weights_are_read(folders, tmp_path, role, edit):
    source, changes, reason = EDITS[edit]
    model = without_weights(edited(folders / source, tmp_path / "model", **changes))
    target = (
        model
        if role == "target"
        else without_weights(edited(folders / "llama", tmp_path / "target"))
    )
    drafter = model if role == "drafter" else "prompt_lookup"
    message = complaint(tmp_path, target, drafter)
    assert reason in message
    assert role in message


def test_an_encoder_decoder_is_refused_before_weights_are_read(folders, tmp_path):
    model = without_weights(edited(folders / "t5", tmp_path / "model"))
    message = complaint(tmp_path, model)
    assert "is an encoder-decoder" in message
    assert "specfair replay" in message
    assert "backend=vllm" in message


def test_a_drafter_that_is_not_there_or_broken_is_said_to_be(folders, tmp_path):
    assert "cannot load drafter" in complaint(tmp_path, folders / "llama", tmp_path / "nothing")
    broken = edited(folders / "llama", tmp_path / "broken")
    (broken / "config.json").write_text("{")
    assert "is not a valid JSON file" in complaint(tmp_path, folders / "llama", broken)
    headless = edited(folders / "llama", tmp_path / "headless", num_attention_heads=0)
    assert "cannot load drafter" in complaint(tmp_path, folders / "llama", headless)


@pytest.mark.parametrize("role", ["target", "drafter"])
def test_damaged_weights_are_said_to_be(folders, tmp_path, role):
    def message(model):
        return complaint(tmp_path, *((model,) if role == "target" else (folders / "llama", model)))

    assert "damaged or cut short: copy it anew" in message(cut(folders / "llama", tmp_path / "cut"))
    more = edited(folders / "llama", tmp_path / "more", num_hidden_layers=3)
    assert "lacks weights: 9 tensors" in message(more)
    assert "with NaN or infinite numbers" in message(folders / "damaged")
    fewer = message(edited(folders / "llama", tmp_path / "fewer", num_hidden_layers=1))
    assert "its files hold 9 tensors beyond its configuration (model.layers.1." in fewer
    narrow = message(edited(folders / "llama", tmp_path / "narrow", intermediate_size=24))
    assert "expects model.layers.0.mlp.down_proj.weight of shape (32, 24), got (32, " in narrow
    assert "(and 5 more); mend config.json, or copy it anew" in narrow


HEADS = {
    "as another layer": ("model.layers.2", "model.layers.2.eh_proj.weight", {}),
    "counted": ("model.layers.2", "x.weight", {"num_nextn_predict_layers": 1}),
    "named": ("mtp.layers.0", "mtp.norm.weight", {}),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_that_draft_are_no_surplus_layers(folders, tmp_path, head):
    place, own, counted = HEADS[head]
    folder = edited(folders / "llama", tmp_path / "model", **counted)
    file = folder / "model.safetensors"
    weights = load_file(file)
    also = {
        name.replace("model.layers.1", place): weight.clone()
        for name, weight in weights.items()
        if "layers.1." in name
    }
    save_file({**weights, **also, own: torch.zeros(1)}, file, metadata={"format": "pt"})

    assert load_model(str(folder), "target").config.num_hidden_layers == 2
    if head == "as another layer":
        save_file({**weights, **also}, file, metadata={"format": "pt"})
        with pytest.raises(ConfigError, match="beyond its configuration"):
            load_model(str(folder), "target")


def test_all_weights_of_a_folder_are_needed_to_miss_one(folders):
    assert len(load_file(folders / "llama" / "model.safetensors")) > 9


def test_arguments_are_to_blame_where_they_are(folders, tmp_path):
    for arguments, reason in (
        ({"batch_size": "x"}, "batch_size must be auto or a number"),
        ({"parallelize": True}, "without a GPU leave out parallelize"),
        ({"attn_implementation": "flex_attention"}, "attn_implementation=sdpa"),
    ):
        if torch.cuda.is_available() and "parallelize" in arguments:
            continue
        assert reason in complaint(tmp_path, folders / "llama", **arguments)


def test_a_context_beyond_a_table_of_positions_is_refused(folders, tmp_path):
    message = complaint(tmp_path, folders / "gpt2", max_length=600)
    assert "has 512 positions; a text of 600 tokens is longer" in message
