"""An EAGLE head for the embedded pair, as vLLM reads one."""

import json

import torch
from safetensors.torch import load_file, save_file

from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER


def eagle_head(folder):
    """The embedded drafter's layer as an EAGLE head that reads the token alone."""
    weights = load_file(EMBEDDED_DRAFTER / "model.safetensors")
    config = json.loads((EMBEDDED_DRAFTER / "config.json").read_text("utf-8"))
    head = {
        name.removeprefix("model."): weight
        for name, weight in weights.items()
        # An EAGLE head's first layer has no norm before its attention.
        if ".layers.0." in name and "input_layernorm" not in name
    }
    size = config["hidden_size"]
    head["fc.weight"] = torch.cat([torch.eye(size), torch.zeros(size, size)], 1)
    folder.mkdir()
    save_file(head, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)
