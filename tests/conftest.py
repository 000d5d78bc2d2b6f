"""Tiny real models, built in memory: nothing is downloaded, nothing is simulated."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 260
END_OF_TEXT = "<|endoftext|>"


def llama(seed: int, *, layers: int = 2, vocab_size: int = VOCAB_SIZE, **more) -> LlamaForCausalLM:
    """A tiny Llama with random weights, wide enough that its likeliest tokens are clear."""
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=vocab_size, num_hidden_layers=layers, **(shape | more))
    return LlamaForCausalLM(config).eval()


def disturbed(model: LlamaForCausalLM, scale: float, seed: int = 0) -> LlamaForCausalLM:
    """A copy with noise on its weights: a drafter that agrees now and then (more, the less)."""
    near = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * scale
    return near


def byte_tokenizer(first_words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte; `first_words` are further tokens, in this order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [END_OF_TEXT, *alphabet, *(first_words or ["Ġa", "Ġb", "Ġc"])]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    return wrapped


@pytest.fixture(scope="session")
def target() -> LlamaForCausalLM:
    return llama(0)


@pytest.fixture(scope="session")
def near_drafter(target) -> LlamaForCausalLM:
    """Accepted about half of the time."""
    return disturbed(target, 0.02)


@pytest.fixture(scope="session")
def far_drafter() -> LlamaForCausalLM:
    """Hardly ever accepted."""
    return llama(1, layers=1)


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory, target, near_drafter) -> Path:
    """A target and a drafter on disk, as a user has them: `target/` and `drafter/`."""
    folder = tmp_path_factory.mktemp("pair")
    for name, model in (("target", target), ("drafter", near_drafter)):
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    return folder
