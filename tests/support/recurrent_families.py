"""Tiny configurations of models with recurrent states, every kind of layer present."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 128
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DELTA_NET = {
    "head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
MAMBA_2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
PURE_MAMBA = {"state_size": 8, "expand": 2, "conv_kernel": 4}

# By `model_type`: what a tiny model of the family needs besides `COMMON`.
RECURRENT: dict[str, dict[str, Any]] = {
    "qwen3_next": DELTA_NET | EXPERTS,
    "qwen3_5_text": DELTA_NET,
    "qwen3_5_moe_text": DELTA_NET | EXPERTS,
    "olmo_hybrid": DELTA_NET,
    "kimi_linear": LATENT
    | EXPERTS
    | {
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "layer_types": DELTA_NET["layer_types"],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "bailing_hybrid": LATENT
    | EXPERTS
    | {
        "head_dim": 16,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "layer_types": DELTA_NET["layer_types"],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "num_mtp_layers": 0,
    },
    "mamba": PURE_MAMBA,
    "falcon_mamba": PURE_MAMBA,
    "mamba2": PURE_MAMBA | {"num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "bamba": MAMBA_2 | {"attn_layer_indices": [1, 3]},
    "falcon_h1": MAMBA_2 | {"mamba_d_ssm": 128},
    "granitemoehybrid": MAMBA_2
    | EXPERTS
    | {
        "shared_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "nemotron_h": EXPERTS
    | {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "head_dim": 16,
        "ssm_state_size": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "moe_shared_expert_intermediate_size": 32,
    },
    "zamba": {
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "zamba2": {
        "num_key_value_heads": 4,
        "mamba_d_state": 16,
        "mamba_ngroups": 2,
        "n_mamba_heads": 8,
        "chunk_size": 8,
        "num_mem_blocks": 1,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "jamba": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 8,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": EXPERTS
    | {"num_dense_layers": 1, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm3": {
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["conv", "full_attention", "conv", "sliding_attention"],
    },
    "minimax": EXPERTS
    | {"layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 16, "block_size": 8},
    "rwkv": {"context_length": 256, "attention_hidden_size": 64},
    "xlstm": {"num_heads": 4, "num_blocks": 4, "chunk_size": 8, "qk_dim_factor": 1.0},
    "qwen4_exp_text": DELTA_NET
    | EXPERTS
    | {
        "ngram_vocab_size_base": 64,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 1,
        "hc_lowrank": 8,
        "hc_count": 2,
        "ple_embed_dim": 16,
        "ple_layer_ids": [1],
        "heads_per_ngram": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "inkling_text": EXPERTS
    | {
        "head_dim": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "sliding_window_size": 16,
        "d_rel": 4,
        "rel_extent": 32,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "logits_mup_width_multiplier": 1.0,
    },
    "recurrent_gemma": {
        "lru_width": 64,
        "attention_window_size": 16,
        "block_types": ["recurrent", "recurrent", "attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "num_hidden_layers": 6,
        "w_init_variance_scale": 1.0,
    },
    "zaya": {
        "head_dim": 16,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "router_hidden_size": 16,
        "sliding_window": 16,
        "layer_types": ["hybrid", "hybrid_sliding"] * 2,
    },
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "head_dim": 16,
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 4,
        "sliding_window": 16,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "layer_types": [
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
        ],
        "num_nextn_predict_layers": 0,
        "partial_rotary_factor": 0.5,
    },
}

# One for each way of keeping a state: delta net, both Mambas, convolution, lightning attention, in
# modules, in an argument, with a clamp that holds in prompts only.
OF_EACH_KIND = [
    "mamba",
    pytest.param("qwen3_5_text", marks=pytest.mark.slow),
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("mamba2", "lfm2", "minimax", "recurrent_gemma", "rwkv", "zamba2")
    ),
]


def recurrent(kind: str, seed: int = 0, **shape: Any) -> PreTrainedModel:
    """A tiny model of a family, with random weights, in evaluation mode."""
    config = AutoConfig.for_model(kind, **(COMMON | RECURRENT[kind] | shape))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():  # Zaya's keys, say: no text would depend on the past
                    parameter.normal_(std=0.25)
        return model


def prompts(lengths: Sequence[int] = (8, 40, 17, 30, 23)) -> list[list[int]]:
    """Prompts of these lengths, of which every second one repeats itself."""
    chance = random.Random(0)
    texts = [[chance.randrange(3, VOCAB) for _ in range(length)] for length in lengths]
    return [
        (text[: len(text) // 2] * 3)[: len(text)] if number % 2 and len(text) > 1 else text
        for number, text in enumerate(texts)
    ]
