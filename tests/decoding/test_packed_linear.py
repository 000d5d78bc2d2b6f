"""Packed products are those of `functional.linear` to the last bit, and follow the weights."""

import logging

import pytest
import torch
from torch.nn import functional

from lm_eval_specfair.decoding.fused import packed_linear
from lm_eval_specfair.decoding.fused.packed_linear import Linear, can_pack
from lm_eval_specfair.decoding.models import CausalModel

from support.architectures import LLAMA_LIKE, VOCAB, build

WEIGHT = torch.zeros(4, 4, dtype=torch.bfloat16)

pytestmark = pytest.mark.skipif(
    not can_pack([WEIGHT], "a trial"), reason="no bf16 kernels for this processor"
)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (8, 5), (3, 17)], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(192, 64), (1536, 576), (33, 7), (8192, 256)])
def test_a_packed_product_is_equal_to_the_last_bit(shape, outputs, inputs):
    weight, bias, states = random(outputs, inputs), random(outputs), random(*shape, inputs)
    for given in (None, bias):
        found = Linear(weight, given, packs=True)(states)
        assert torch.equal(found, functional.linear(states, weight, given))


@pytest.mark.parametrize(
    "weight",
    [WEIGHT.float(), WEIGHT.half(), WEIGHT.to("meta")],
    ids=["fp32", "fp16", "elsewhere"],
)
def test_only_bf16_on_a_processor_is_packed(weight):
    assert not can_pack([WEIGHT, weight], "a model")


def test_without_room_weights_stay_as_they_are_and_it_is_told(monkeypatch, caplog):
    monkeypatch.setattr(packed_linear, "SHARE_OF_MEMORY", 0.0)
    with caplog.at_level(logging.WARNING, packed_linear.__name__):
        assert not can_pack([WEIGHT], "a model")
    assert "a model: its weights are used as they are" in caplog.text


@pytest.mark.parametrize("tied", [True, False])
def test_scores_are_those_of_plain_weights_also_after_a_weight_was_written_to(monkeypatch, tied):
    def scores(model):
        wrapped = CausalModel(model)
        tokens = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
        found = []
        for _ in range(2):
            wrapped.reset()
            wrapped.read_prompts([0, 1], tokens[:, :-3].tolist())
            found.append(wrapped.score(tokens[:, -3:]))
            with torch.no_grad():
                model.model.layers[-1].mlp.down_proj.weight.mul_(2)
                model.lm_head.weight.mul_(-1)
        assert wrapped._fused is not None
        return found

    made = [
        build("llama", LLAMA_LIKE | {"tie_word_embeddings": tied}).to(torch.bfloat16)
        for _ in range(2)
    ]
    made[1].load_state_dict(made[0].state_dict())
    packed = scores(made[0])
    monkeypatch.setattr("lm_eval_specfair.decoding.fused.fused_forward.can_pack", lambda *_: False)
    plain = scores(made[1])
    assert torch.equal(packed[0], plain[0])
    assert torch.equal(packed[1], plain[1])
    assert not torch.equal(packed[0], packed[1])
