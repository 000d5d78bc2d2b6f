"""EAGLE-3 heads: the module beside one written from the definition, unrolled steps, folders."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from lm_eval_specfair.decoding.cache import RaggedCache
from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_config import HeadConfig
from lm_eval_specfair.decoding.heads.head_folder import read_head, write_head
from lm_eval_specfair.decoding.heads.head_memory import CachedMemory
from lm_eval_specfair.errors import ConfigError

from support.naive_head import naive_scores
from support.tiny_heads import tiny_head

VOCAB = 23
FEATURES = (1, 2, 4)


def target_config(**given):
    sizes = {
        "vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 5,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "rope_theta": 100.0,
    }  # fmt: skip
    return AutoConfig.for_model("llama", **sizes | given)


def made(**settings):
    settings.setdefault("layer", {})
    settings["layer"] = {"rope_theta": 100.0} | settings["layer"]
    return tiny_head(target_config(), feature_layers=FEATURES, own_embedding=True, **settings)


KINDS = {
    "plain": {},
    "pruned": {"drafted": [0, 3, 4, 9, 22]},
    "norm_before_residual": {"norm_before_residual": True},
    "norm_before_fc": {"norm_before_fc": True},
    "fc_norm, norm_output": {"fc_norm": True, "norm_output": True},
    "two layers": {"layer": {"num_hidden_layers": 2}},
    "biases": {"layer": {"attention_bias": True}},
}


def text(length=9, rows=1, seed=1):
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (rows, length), generator=chance)
    return tokens, torch.randn(rows, length, 24, generator=chance)


def qwen(head):
    """The same head with norms of queries and keys."""
    config = head.config
    layer = AutoConfig.for_model(
        "qwen3", **{k: v for k, v in config.layer.to_dict().items() if k != "model_type"}
    )
    return HeadConfig(
        layer=layer, feature_layers=config.feature_layers, target_hidden_size=8,
        draft_vocab_size=config.draft_vocab_size,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_steps_are_those_of_the_definition(kind):
    head = made(**KINDS[kind]).double()
    if head.layers[0].self_attn.q_proj.bias is not None:
        head.layers[0].self_attn.o_proj.bias.data.zero_()  # the definition has it nowhere
    tokens, features = text(rows=2)
    with torch.no_grad():
        steps = head(tokens, features.double(), num_steps=4)
    assert [step.shape[1] for step in steps] == [8, 7, 6, 5]
    for row in range(2):
        kept, seen = tokens[row].tolist(), features[row].numpy()
        for k, step in enumerate(steps):
            for t in range(step.shape[1]):
                expected = naive_scores(head, kept[: t + 2], seen[: t + 1], kept[t + 2 : t + 2 + k])
                got = head.lm_head(step[row, t]).detach().numpy()
                # Norms round to fp32.
                np.testing.assert_allclose(
                    got, expected, rtol=1e-5, atol=1e-5
                )  # norms round to fp32


def test_gradients_flow_through_all_steps():
    head = made().double()
    tokens, features = text()
    steps = head(tokens, features.double(), num_steps=3)
    head.lm_head(steps[2]).square().sum().backward()
    assert float(head.fc.weight.grad.abs().sum()) > 0
    analytic = float(head.fc.weight.grad[0, 0])
    with torch.no_grad():
        values = []
        for shift in (1e-3, -2e-3):  # norms round to fp32
            head.fc.weight[0, 0] += shift
            values.append(float(head.lm_head(head(tokens, features.double(), 3)[2]).square().sum()))
    assert analytic == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_a_cache_are_the_unrolled_ones(kind):
    head = made(**KINDS[kind]).double()
    tokens, features = text(length=9)
    features = features.double()
    with torch.no_grad():
        steps = head(tokens, features, num_steps=3)
        cache = RaggedCache()
        positions = torch.arange(5)[None]
        cache.aim([0], positions, is_prompt=True)
        normed, hidden = head.step(
            tokens[:, 1:6], head.combine(features[:, :5]), positions, CachedMemory(cache, None)
        )
        cache.lengths[0] = 5
        torch.testing.assert_close(normed, steps[0][:, :5])
        hidden = hidden[:, -1:]
        for k in (1, 2):
            place = torch.tensor([[4 + k]])
            cache.aim([0], place, is_prompt=False)
            mask = torch.arange(5 + k)[None, None, None] <= place[:, None, :, None]
            normed, hidden = head.step(
                tokens[:, 5 + k : 6 + k], hidden, place, CachedMemory(cache, mask)
            )
            cache.lengths[0] += 1
            torch.testing.assert_close(normed, steps[k][:, 4:5])


def test_a_folder_is_read_as_it_was_written(tmp_path):
    for kind, settings in KINDS.items():
        head = made(**settings)
        write_head(head, tmp_path / kind)
        again = read_head(tmp_path / kind)
        assert again.config.settings() == head.config.settings()
        for name, tensor in head.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
        tokens, features = text()
        assert torch.equal(again(tokens, features, 2)[1], head(tokens, features, 2)[1])


def test_queries_and_keys_of_qwen_are_normed(tmp_path):
    config = qwen(made())
    head = Eagle3Head(config).double()
    for weight in head.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(3))
    write_head(head, tmp_path / "head")
    head = read_head(tmp_path / "head")
    tokens, features = text(length=5)
    got = head.lm_head(head(tokens, features.double())[0][0, -1]).detach().numpy()
    expected = naive_scores(head, tokens[0].tolist(), features[0, :-1].numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def damaged(folder, **config):
    """A head whose folder has other settings."""
    write_head(made(drafted=[0, 3, 4, 9, 22]), folder)
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    layer = config.pop("layer", {})
    settings["transformer_layer_config"] |= layer
    (folder / "config.json").write_text(json.dumps(settings | config), encoding="utf-8")
    return folder


def test_wrong_heads_are_refused_in_a_line(tmp_path):
    cases = [
        ({"speculators_model_type": "dflash"}, "only eagle3"),
        ({"layer": {"model_type": "gemma3_text"}}, "llama or qwen3"),
        ({"eagle_aux_hidden_state_layer_ids": [1, 1, 2]}, "ascending order"),
        ({"draft_vocab_size": 4}, r"name 5 tokens, draft_vocab_size says 4"),
        ({"draft_vocab_size": 400}, "at most the target's 23"),
        ({"layer": {"vocab_size": 24}}, "are for a target of 23 tokens"),
        ({"layer": {"intermediate_size": 13}}, r"expects layers\S+ of shape .8, 13., got .8, 12."),
        ({"eagle_aux_hidden_state_layer_ids": [1, 2]}, r"expects fc.weight of shape .8, 16., got"),
        ({"norm_before_fc": True}, "lacks weights: 1 tensors.*input_norm"),
        ({"fc_norm": True, "norm_before_fc": True}, "exclude each other"),
        ({"layer": {"num_hidden_layers": 0}}, "hold 10 tensors beyond its configuration"),
        ({"transformer_layer_config": 3}, "cannot be read"),
    ]
    for number, (settings, message) in enumerate(cases):
        folder = damaged(tmp_path / str(number), **settings)
        with pytest.raises(ConfigError, match=message) as caught:
            read_head(folder)
        assert "\n" not in str(caught.value)


def rewritten(folder, change):
    write_head(made(drafted=[0, 3, 4, 9, 22]), folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_maps_that_do_not_fit_are_refused(tmp_path):
    def off_by_one(tensors):
        tensors["d2t"] += 1

    def absolute(tensors):
        tensors["d2t"] += torch.arange(5)

    for number, (change, message) in enumerate(
        [(off_by_one, "d2t must be offsets|names 5 tokens and t2d 5"), (absolute, "d2t")]
    ):
        with pytest.raises(ConfigError, match=message):
            read_head(rewritten(tmp_path / str(number), change))


def test_either_map_is_enough(tmp_path):
    for name in ("d2t", "t2d"):
        folder = rewritten(tmp_path / name, lambda tensors, name=name: tensors.pop(name))
        head = read_head(folder)
        assert head.target_ids.tolist() == [0, 3, 4, 9, 22]
        assert head.t2d.nonzero()[:, 0].tolist() == [0, 3, 4, 9, 22]


def test_a_head_without_layer_numbers_reads_the_usual_ones(tmp_path):
    folder = damaged(tmp_path / "head", eagle_aux_hidden_state_layer_ids=None)
    with pytest.raises(ConfigError, match="names no layers"):
        read_head(folder)
    assert read_head(folder, num_target_layers=12).config.feature_layers == (2, 6, 9)
    with pytest.raises(ConfigError, match="too shallow"):
        read_head(folder, num_target_layers=4)


def test_the_reference_codes_names_are_understood(tmp_path):
    def renamed(tensors):
        for name in [each for each in tensors if each.startswith("layers.0.")]:
            tensors["midlayer." + name.removeprefix("layers.0.")] = tensors.pop(name)

    head = read_head(rewritten(tmp_path / "head", renamed))
    tokens, features = text()
    assert torch.equal(
        head(tokens, features)[0], made(drafted=[0, 3, 4, 9, 22])(tokens, features)[0]
    )
