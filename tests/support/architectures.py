"""Tiny models of every architecture that the engine takes, and ragged scores beside plain ones."""

import random

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_specfair.decoding.models import CausalModel

from support.decoding_runs import plain_scores

VOCAB = 101


LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


WITH_PAD = LLAMA_LIKE | {"pad_token_id": 0}


TAKEN = {
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "gemma": WITH_PAD,
    "mistral": LLAMA_LIKE | {"sliding_window": None},
    "phi": LLAMA_LIKE,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3},
    "gpt_neox": {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "init_std": 0.3,
    },
}


def build(kind: str, shape: dict, attention: str = "sdpa"):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, **({"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2} | shape)
    )
    options = (
        {} if kind in ("mamba", "mpt", "bloom", "gemma2") else {"attn_implementation": attention}
    )
    return AutoModelForCausalLM.from_config(config, **options).eval()


def worst_difference(wrapped: CausalModel, model, seed: int, num_rounds: int = 6) -> float:
    """Let a batch be filled, scored, rolled back, moved and refilled; compare with plain passes.

    The largest difference of scores, relative to their spread.
    """
    chance = random.Random(seed)

    def text(shortest: int, longest: int) -> list[int]:
        return [chance.randrange(3, VOCAB) for _ in range(chance.randint(shortest, longest))]

    wrapped.reset()
    rows = [text(0, 12) for _ in range(chance.randint(1, 4))]
    wrapped.read_prompts(list(range(len(rows))), rows)
    worst = 0.0
    for _ in range(num_rounds):
        width = chance.randint(1, 5)
        block = [text(width, width) for _ in rows]
        scores = wrapped.score(torch.tensor(block))
        assert scores.shape == (len(rows), width, wrapped.vocab_size)
        for row, kept in enumerate(rows):
            expected = plain_scores(model, kept + block[row])[-width:]
            difference = (scores[row] - expected).abs().max() / expected.std()
            worst = max(worst, float(difference))
        for row, tokens in enumerate(block):
            rows[row] = rows[row] + tokens[: chance.randint(0, width)]
            wrapped.cache.lengths[row] = len(rows[row])
        if len(rows) > 1 and chance.random() < 0.4:  # a row ends, the last one takes its place
            place, last = chance.randrange(len(rows)), len(rows) - 1
            if place < last:
                wrapped.cache.move(last, place)
                rows[place] = rows[last]
            rows.pop()
        if chance.random() < 0.4:
            new = [text(0, 12) for _ in range(chance.randint(1, 2))]
            wrapped.read_prompts(list(range(len(rows), len(rows) + len(new))), new)
            rows += new
    return worst
