"""The fused pass scores as a model's own modules do, and takes only models of its shape."""

import pytest
import torch
from torch import nn

from lm_eval_specfair.decoding.fused.fused_forward import FusedForward
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError

from support.architectures import LLAMA_LIKE, TAKEN, VOCAB, build, worst_difference

SHAPES = {
    "llama": ("llama", LLAMA_LIKE),
    "a key-value head a head": ("llama", LLAMA_LIKE | {"num_key_value_heads": 4}),
    "one key-value head": ("llama", LLAMA_LIKE | {"num_key_value_heads": 1}),
    "biases": ("llama", LLAMA_LIKE | {"attention_bias": True, "mlp_bias": True}),
    "tied": ("llama", LLAMA_LIKE | {"tie_word_embeddings": True}),
    "activation": ("llama", LLAMA_LIKE | {"hidden_act": "gelu"}),
    "linear positions": (
        "llama",
        LLAMA_LIKE | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "mistral": ("mistral", TAKEN["mistral"]),
    "qwen2": ("qwen2", LLAMA_LIKE),
    "qwen3": ("qwen3", LLAMA_LIKE),
}


def unlike_ones(model):
    """Norms and biases start as ones and zeros, which would hide that they are not used."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_fused_pass_scores_as_the_model_does(shape):
    model = unlike_ones(build(*shape))
    wrapped = CausalModel(model)
    assert wrapped._fused is not None
    assert max(worst_difference(wrapped, model, seed) for seed in range(3)) < 1e-4


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_fused_pass_rounds_as_the_model_does(kind, dtype):
    model = unlike_ones(build(kind, LLAMA_LIKE)).to(dtype)
    wrapped = CausalModel(model)
    tokens = torch.randint(3, VOCAB, (2, 9))
    with torch.inference_mode():
        expected = model(input_ids=tokens).logits.double()
        wrapped.read_prompts([0, 1], tokens[:, :-3].tolist())
        found = wrapped.score(tokens[:, -3:]).double()
    # Where both round alike, they differ by the order of sums alone: a few units of the last place.
    unit = torch.finfo(dtype).eps
    assert (found - expected[:, -3:]).abs().max() < 16 * unit * expected.abs().max()


def test_one_token_of_each_row_can_be_scored_alone():
    for kind in ("llama", "gpt2"):
        wrapped = CausalModel(build(kind, TAKEN[kind]))
        block, at = torch.randint(3, VOCAB, (3, 4)), torch.tensor([2, 0, 3])
        wrapped.read_prompts([0, 1, 2], [[5, 6], [7], []])
        everything = wrapped.score(block)
        torch.testing.assert_close(wrapped.score(block, at), everything[torch.arange(3), at])


def test_weights_are_laid_side_by_side_and_held_once():
    model = build("llama", LLAMA_LIKE)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    CausalModel(model)
    attention = model.model.layers[0].self_attn
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    assert parts[0].untyped_storage().nbytes() == sum(part.nbytes for part in parts)
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    # A second engine on the same model finds them where they are.
    where = parts[0].data_ptr()
    CausalModel(model)
    assert attention.q_proj.weight.data_ptr() == where


def test_weights_that_are_exchanged_or_moved_are_seen():
    model, other = build("llama", LLAMA_LIKE), build("llama", LLAMA_LIKE | {"rms_norm_eps": 1e-5})
    wrapped = CausalModel(model)
    for new, kept in zip(other.parameters(), model.parameters(), strict=True):
        kept.data = new.detach() * 1.5
    assert worst_difference(wrapped, model, seed=0) < 1e-4
    model.double()
    assert worst_difference(wrapped, model, seed=0) < 1e-9


def test_a_gradient_step_in_place_is_seen():
    model = build("llama", LLAMA_LIKE)
    wrapped = CausalModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=torch.tensor([[3, 4, 5]])).logits.square().mean().backward()
    optimizer.step()
    assert worst_difference(wrapped, model, seed=1) < 1e-4


class Adapted(nn.Linear):
    """Computes something else, as adapters and quantised layers do."""

    def forward(self, x):
        return super().forward(x) * 1.01


def adapt(model):
    old = model.model.layers[1].mlp.up_proj
    new = Adapted(old.in_features, old.out_features, bias=False)
    new.weight = old.weight
    model.model.layers[1].mlp.up_proj = new


def hook(model):
    model.model.layers[1].register_forward_hook(lambda module, args, output: output * 1.01)


def split(model):
    model.model.layers[1].to(torch.float64)


@pytest.mark.parametrize("change", [adapt, hook])
def test_a_changed_model_keeps_its_own_pass(change):
    model = build("llama", LLAMA_LIKE)
    change(model)
    wrapped = CausalModel(model)
    assert wrapped._fused is None
    assert worst_difference(wrapped, model, seed=0) < 1e-4


def test_weights_of_two_types_keep_the_models_own_pass():
    model = build("llama", LLAMA_LIKE)
    split(model)
    assert not FusedForward.fits(model)


@pytest.mark.parametrize("kind", ["gemma", "phi", "gpt2", "gpt_neox", "opt"])
def test_other_architectures_keep_their_own_pass(kind):
    assert not FusedForward.fits(build(kind, TAKEN[kind]))


def test_a_wrong_fused_pass_is_refused_when_a_model_is_wrapped(monkeypatch):
    attended = FusedForward._attended

    def mixed(self, query, keys, values, added):
        return attended(self, query.flip(1), keys, values, added)

    monkeypatch.setattr(FusedForward, "_attended", mixed)
    with pytest.raises(ConfigError, match="differ from those without one"):
        CausalModel(build("llama", LLAMA_LIKE))
