"""Models with images: their text part decodes as `generate` does, with the class that fits."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from lm_eval_specfair.conformance.tiny_families import FAMILIES, PROMPTS
from lm_eval_specfair.decoding.drafters import PromptLookup
from lm_eval_specfair.decoding.loading import load_model
from lm_eval_specfair.decoding.models import CausalModel

from support.decoding_runs import CPU, decode, request, transformers_greedy

TEXT: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
SIZE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
PATCHES = {"image_size": 28, "patch_size": 14}
QWEN = {
    "hidden_size": 32,
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 64,
    "intermediate_size": 32,
}
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}


def text_of(name: str) -> dict[str, Any]:
    return TEXT | {key: value for key, value in FAMILIES[name].items() if key != "model_type"}


MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma3": (text_of("gemma3"), SIZE | PATCHES),
    "gemma4": (text_of("gemma4_moe") | {"enable_moe_block": False}, {}),
    "mistral3": (
        TEXT | {"model_type": "mistral", "sliding_window": 16},
        SIZE | PATCHES | {"head_dim": 16, "model_type": "pixtral"},
    ),
    "llama4": (
        text_of("llama4"),
        SIZE
        | PATCHES
        | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    ),
    "llava": (
        TEXT | {"model_type": "llama"},
        SIZE | PATCHES | {"model_type": "clip_vision_model", "projection_dim": 32},
    ),
    "qwen2_5_vl": (TEXT | {"rope_parameters": SECTIONS}, QWEN),
    "qwen3_vl": (TEXT | {"rope_parameters": SECTIONS}, QWEN | {"deepstack_visual_indexes": [0]}),
}
QUICK = ("gemma3", "qwen2_5_vl")


def built(name: str):
    text, vision = MODELS[name]
    parts = {"text_config": text} | ({"vision_config": vision} if vision else {})
    config = AutoConfig.for_model(name, **parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in MODELS]
)
def test_greedy_texts_are_those_of_generate(name):
    model = built(name)
    expected = [transformers_greedy(model, prompt, 20) for prompt in PROMPTS]

    found = decode(
        model, PromptLookup(CPU), [request(prompt, 20) for prompt in PROMPTS], batch_size=4
    )

    assert [completion.token_ids for completion in found] == expected


def test_a_family_without_a_causal_class_of_its_own_is_loaded(tmp_path):
    built("qwen2_5_vl").save_pretrained(tmp_path)

    assert CausalModel(load_model(str(tmp_path), "target")).vocab_size == 128
