"""A target's own MTP module as a drafter: beside transformers' generate, and from the beginning."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_specfair.decoding.heads.head_drafter import HeadDrafter
from lm_eval_specfair.decoding.heads.mtp_chain import MtpChain, load_mtp
from lm_eval_specfair.decoding.loading import load_model
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError

from support.decoding_runs import (
    accepted,
    decode,
    random_prompts,
    rejections,
    request,
    transformers_greedy,
)

VOCAB = 12
COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64, "moe_intermediate_size": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "initializer_range": 0.3, "n_shared_experts": 1,
}  # fmt: skip
FAMILIES = {
    "deepseek_v3": {
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 16, "num_key_value_heads": 2,
    },
    "glm4_moe": {"num_key_value_heads": 1, "head_dim": 16},
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def target(request, tmp_path_factory):
    """A tiny random target with an MTP module, as such checkpoints hold it: one more layer."""
    folder = tmp_path_factory.mktemp(request.param)
    config = AutoConfig.for_model(request.param, **COMMON, **FAMILIES[request.param])
    config.num_mtp_layers = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        deeper = AutoConfig.for_model(request.param, **COMMON, **FAMILIES[request.param])
        deeper.num_hidden_layers = 3
        deeper.num_mtp_layers = 0
        AutoModelForCausalLM.from_config(deeper).save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        size = COMMON["hidden_size"]
        tensors |= {
            "model.layers.2.eh_proj.weight": torch.randn(size, 2 * size) * 0.3,
            "model.layers.2.enorm.weight": 1 + torch.randn(size) * 0.1,
            "model.layers.2.hnorm.weight": 1 + torch.randn(size) * 0.1,
            "model.layers.2.shared_head.norm.weight": 1 + torch.randn(size) * 0.1,
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.num_mtp_layers = 1
    config.architectures = deeper.architectures or [
        type(AutoModelForCausalLM.from_config(config)).__name__
    ]
    config.save_pretrained(folder)
    return load_model(str(folder), "target", dtype=torch.float32)


def drafter_of(target):
    return HeadDrafter(MtpChain(load_mtp(target, "toy"), target))


def cases(number=16):
    prompts = [[3], *random_prompts(number - 1, longest=14, vocab_size=VOCAB)]
    return [request(prompt, 2 + place % 11, f"r{place}") for place, prompt in enumerate(prompts)]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_greedy_text_is_the_targets_own(target, batch_size):
    requests = cases()
    done = decode(
        target, drafter_of(target), requests, batch_size=batch_size, num_speculative_tokens=3
    )
    for each, completion in zip(requests, done, strict=True):
        expected = transformers_greedy(target, each.prompt, each.stopping.max_new_tokens)
        assert completion.token_ids == expected
    assert accepted(done) > 3
    assert rejections(done) > 30


def test_the_first_draft_is_that_of_transformers(target, monkeypatch):
    """`generate(use_mtp=True)` drafts one token a step: its scores are ours."""
    from transformers.generation import candidate_generator

    theirs = []
    original = candidate_generator.MTPCandidateGenerator.get_candidates

    def noted(self, input_ids, *given, **more):
        ids, scores = original(self, input_ids, *given, **more)
        if scores is not None:
            theirs.append((input_ids[0].tolist(), scores[0, 0]))
        return ids, scores

    monkeypatch.setattr(candidate_generator.MTPCandidateGenerator, "get_candidates", noted)
    prompt = [3, 5, 1, 2, 9]
    tokens = torch.tensor([prompt])
    depth = target.config.num_hidden_layers
    # It finds modules by the depths of published models.
    monkeypatch.setattr(
        target, "_keys_to_ignore_on_load_unexpected", [rf"model\.layers\.{depth}\."]
    )
    text = target.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=12,
        use_mtp=True, pad_token_id=0, eos_token_id=1_000_000,
    )[0].tolist()  # fmt: skip
    assert len(theirs) > 5
    drafter, wrapped = drafter_of(target), CausalModel(target)
    ours = {}
    propose = drafter.propose

    def watched(histories, *given):
        draft = propose(histories, *given)
        if draft.num_drafted[0]:
            ours[tuple(histories[0])] = draft.scores[0, 0]
        return draft

    drafter.propose = watched
    [done] = decode(wrapped, drafter, [request(prompt, 12)], num_speculative_tokens=1)
    assert prompt + done.token_ids == text
    compared = 0
    for history, scores in theirs:
        if tuple(history) in ours:
            torch.testing.assert_close(ours[tuple(history)], scores.float(), rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared > 3


def test_sampled_runs_do_not_depend_on_the_batch(target):
    drafter = drafter_of(target)
    alone, together = (
        decode(target, drafter, cases(), batch_size=size, num_speculative_tokens=3, temperature=1.0)
        for size in (1, 6)
    )
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert one.counters.accepted_per_step == other.counters.accepted_per_step


def test_targets_without_a_module_are_refused(target):
    from lm_eval_specfair.conformance.tiny_models import llama

    with pytest.raises(ConfigError, match="has no module for multi-token prediction"):
        load_mtp(llama(0), "toy")
    kept = target.config.num_mtp_layers
    target.config.num_mtp_layers = 2
    try:
        with pytest.raises(ConfigError, match="has 2 layers for multi-token"):
            load_mtp(target, "toy")
    finally:
        target.config.num_mtp_layers = kept
