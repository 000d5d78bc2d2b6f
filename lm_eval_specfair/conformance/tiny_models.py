"""Tiny real models with random weights, and a byte tokenizer: nothing is downloaded."""

import copy
import functools
import importlib.resources
import json
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCAB_SIZE = 260
END_OF_TEXT = "<|endoftext|>"

# Configurations by name. Full attention in all layers: a decoder should take them. Uncroppable: the
# cache cannot be cut back row by row, so they are to be refused, or decoded by other means.
# Heads are of 32: those of 8 are too small for vLLM's attention for CPUs.
_FILE = importlib.resources.files("lm_eval_specfair.conformance") / "architectures.json"
_CONFIGS: dict[str, dict[str, Any]] = json.loads(_FILE.read_bytes())
FULL_ATTENTION, UNCROPPABLE = _CONFIGS["full attention"], _CONFIGS["uncroppable"]


@functools.cache
def architecture(kind: str, seed: int = 0) -> PreTrainedModel:
    """A model of `FULL_ATTENTION` or `UNCROPPABLE` with random weights, in evaluation mode."""
    special = {"vocab_size": 101, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(**(special | (FULL_ATTENTION | UNCROPPABLE)[kind]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    return model.eval()


def llama(
    seed: int, *, layers: int = 2, vocab_size: int = VOCAB_SIZE, **more: Any
) -> LlamaForCausalLM:
    """A tiny Llama with random weights, wide enough that its most likely tokens are clear."""
    shape = _CONFIGS["small Llama"] | more
    config = LlamaConfig(vocab_size=vocab_size, num_hidden_layers=layers, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def disturbed(model: PreTrainedModel, scale: float, seed: int = 0) -> PreTrainedModel:
    """A copy with noise on its weights: a drafter that agrees more the smaller the noise."""
    near = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * scale
    return near


def with_vocabulary(model: PreTrainedModel, vocab_size: int) -> PreTrainedModel:
    """A Llama with its vocabulary cut, or padded with ids that get the largest scores of all."""
    own = int(model.config.vocab_size)
    other = llama(0, vocab_size=vocab_size, head_dim=model.config.head_dim)
    weights = model.state_dict()
    for name, weight in weights.items():
        if weight.shape[0] == own:
            filled = torch.zeros(vocab_size, *weight.shape[1:])
            filled[:own] = weight[:vocab_size]
            filled[own:] = 3 * weight[:4].abs().amax(0)
            weights[name] = filled
    other.load_state_dict(weights)
    return other


@functools.cache
def target() -> LlamaForCausalLM:
    """The target of most checks; with a head that other engines' kernels take."""
    return llama(0, head_dim=32)


@functools.cache
def near_drafter() -> PreTrainedModel:
    """Accepted about half of the time."""
    return disturbed(target(), 0.02)


@functools.cache
def far_drafter() -> LlamaForCausalLM:
    """Hardly ever accepted."""
    return llama(1, layers=1, head_dim=32)


@functools.cache
def twin() -> PreTrainedModel:
    """A copy of the target: all that it drafts must be accepted."""
    return copy.deepcopy(target())


@functools.cache
def translated_pair(
    *, same_size: bool = False
) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerFast]:
    """A target of printable bytes, and the same model in other token ids with its tokenizer."""
    own, other = byte_tokenizer(), byte_tokenizer(None if same_size else ["Ġa"], reverse=True)
    printable = {chr(code) for code in range(33, 127)}
    speaking, listening = llama(6), llama(6, vocab_size=len(other))
    table = own.get_vocab()
    rows = [table[token] for token, _ in sorted(other.get_vocab().items(), key=lambda x: x[1])]
    with torch.no_grad():
        for token, number in table.items():
            if token not in printable:  # a score of 0 is never the largest of these
                speaking.lm_head.weight[number] = 0
        weights = speaking.state_dict()
        for name, weight in weights.items():
            if weight.shape[0] == len(own):
                weights[name] = weight[rows]
        listening.load_state_dict(weights)
    return speaking, listening, other


def byte_tokenizer(
    first_words: list[str] | None = None, *, reverse: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per byte; `first_words` are further tokens, in this order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=reverse)
    tokens = [END_OF_TEXT, *alphabet, *(first_words or ["Ġa", "Ġb", "Ġc"])]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    return wrapped
