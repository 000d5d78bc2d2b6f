"""Tiny models of many families, random weights, every kind of layer present.

Windows and chunks are of 16 tokens, sparse indexers keep 8 keys, longrope's border is at 32: the
texts of `PROMPTS` and what follows them are longer.
"""

import functools
import importlib.resources
import json
import random
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 128
_FILE = importlib.resources.files("lm_eval_specfair.conformance") / "families.json"
_READ: dict[str, dict[str, Any]] = json.loads(_FILE.read_bytes())
_SPECIAL = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
FAMILIES: dict[str, dict[str, Any]] = _READ["families"]
"""By name: what a tiny configuration has beside the common part, and what of that it lacks."""


def configuration(name: str, **more: Any) -> Any:
    """A family's tiny configuration, with some values of one's own."""
    own = dict(FAMILIES[name])
    without = own.pop("without", ())
    common = {key: value for key, value in _READ["common"].items() if key not in without}
    return AutoConfig.for_model(**(_SPECIAL | common | own | more))


@functools.lru_cache(maxsize=4)
def family(name: str, seed: int = 0) -> PreTrainedModel:
    """A family's tiny model, in evaluation mode."""
    return built(configuration(name), seed)


def built(config: Any, seed: int = 0) -> PreTrainedModel:
    """A model with random weights, also where it starts from zeros or ones, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms, sinks, biases
                    parameter += torch.randn_like(parameter) * 0.1
    return model


def _prompts() -> list[list[int]]:
    chance = random.Random(0)
    made = [[chance.randrange(2, VOCAB_SIZE) for _ in range(n)] for n in (8, 40, 17, 30, 23)]
    made[1][20:], made[3][15:] = made[1][:20], made[3][:15]  # for prompt lookup
    return made


PROMPTS = _prompts()
