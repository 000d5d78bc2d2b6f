"""When each family of models is tried: `make test`, `make test-slow` or `make test-thorough`.

Engine, cache and masks know no family by its name. One of each way to keep keys, values and states,
to mask them and to tell positions is tried by CI; families that differ from these in their layers'
arithmetic alone are marked `thorough`.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

KINDS = frozenset((
    # Windows beside full attention: with soft caps, two bases of rope, shared keys, experts.
    "gemma2", "gemma3n", "gemma4_moe", "cohere2", "modernbert_decoder",
    # Latent keys, indexers, longrope, yarn, layers without rope.
    "deepseek_v3", "deepseek_v32", "minimax_m3_sparse", "hy_v4", "phimoe_longrope", "llama_yarn",
    "smollm3",
    # Tables of positions, partial rope, one key for all heads, parallel and differential layers.
    "gpt2", "opt", "gpt_bigcode", "gpt_neox", "ctrl", "diffllama", "doge",
    # Experts; keys in parts of another size.
    "mixtral", "qwen3",
    # States: read in blocks, by token, late, row by row; with windows, latent keys or experts.
    "qwen3_next", "kimi_linear", "mamba2", "falcon_h1", "minimax", "zaya", "jamba",
    "nemotron_h", "recurrent_gemma", "xlstm", "deepseek_v4", "inkling_text",
))  # fmt: skip


def marked(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Families as parameters of a test; `quick` ones belong to the fast tests."""
    return [
        pytest.param(
            name,
            marks=()
            if name in quick
            else pytest.mark.slow
            if name in KINDS
            else pytest.mark.thorough,
        )
        for name in names
    ]
