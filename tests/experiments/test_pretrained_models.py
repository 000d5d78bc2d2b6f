"""Drafters made of a target: rounded copies and first layers; and the cells of a chi-square test.

python -m pytest tests/experiments/test_pretrained_models.py
"""

import copy
from collections import Counter

import pytest
import torch

pytestmark = pytest.mark.usefixtures("pretrained_scripts")


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_rounded_weights_are_the_nearest_of_few_levels(target, bits):
    from fetch import GROUP, round_weights

    rounded = copy.deepcopy(target)
    error = round_weights(rounded, bits)

    layer = target.model.layers[0].mlp.down_proj.weight
    groups = layer.detach().reshape(-1, GROUP)
    new = rounded.model.layers[0].mlp.down_proj.weight.detach().reshape(-1, GROUP)
    scale = groups.abs().amax(1) / (2 ** (bits - 1) - 1)
    levels = new / scale[:, None]
    assert levels.sub(levels.round()).abs().max() < 1e-3
    assert all(len(row.round().unique()) <= 2**bits for row in levels)
    # None is further off than half a level, and the largest of a group is kept.
    assert ((new - groups).abs() <= scale[:, None] / 2 * 1.0001).all()
    assert new.abs().amax(1).allclose(groups.abs().amax(1))
    # Fewer bits, more error: about a level's standard deviation.
    assert 0 < error < {8: 0.02, 4: 0.2, 3: 0.4}[bits]
    assert rounded.lm_head.weight.equal(target.lm_head.weight)
    assert rounded.model.embed_tokens.weight.equal(target.model.embed_tokens.weight)


def test_first_layers_say_what_the_target_says_after_them(target):
    from fetch import first_layers

    cut = first_layers(target, 1)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        kept: list[torch.Tensor] = []
        hook = target.model.layers[0].register_forward_hook(
            lambda module, given, output: kept.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        target(tokens)
        hook.remove()
        expected = target.lm_head(target.model.norm(kept[0]))
        assert torch.allclose(cut(tokens).logits, expected, atol=1e-5)
    assert cut.config.num_hidden_layers == len(cut.model.layers) == 1
    assert target.config.num_hidden_layers == len(target.model.layers) > 1


def test_rare_texts_share_a_cell():
    from two_tokenizers import cells

    law = {(0, 0): 0.5, (0, 1): 0.46, (1, 0): 0.03, (1, 1): 0.01}
    found = Counter({(0, 0): 48, (0, 1): 49, (1, 0): 2, (1, 1): 1})

    observed, expected = cells(found, law, 100)

    assert observed == [48, 49, 3]
    assert expected == pytest.approx([50, 46, 4])


def test_the_law_of_two_tokens_is_a_law(target):
    from two_tokenizers import TOP_K, two_token_law

    law = two_token_law(target, [3, 4, 5])

    assert len(law) == TOP_K**2
    assert sum(law.values()) == pytest.approx(1)
    with torch.no_grad():
        first = target(torch.tensor([[3, 4, 5]])).logits[0, -1].double().softmax(-1)
        one = int(first.argmax())
        second = target(torch.tensor([[3, 4, 5, one]])).logits[0, -1].double().softmax(-1)
    top = [
        float(each.topk(TOP_K).values[0] / each.topk(TOP_K).values.sum())
        for each in (first, second)
    ]
    assert law[one, int(second.argmax())] == pytest.approx(top[0] * top[1])


def test_the_declaration_is_cut_in_two_without_losing_anything(tmp_path):
    from data_sets import declaration_rows

    path = tmp_path / "texts.jsonl"
    path.write_text(
        '{"lang": "en", "article": 1, "text": "All human beings are born free."}\n'
        '{"lang": "zh", "article": 1, "text": "人人生而自由"}\n',
        encoding="utf-8",
    )
    [english], [chinese] = (list(declaration_rows(path, one)) for one in ("en", "zh"))

    assert english["prompt"] + english["reference"] == "All human beings are born free."
    assert english["reference"].startswith(" ")
    assert (chinese["prompt"], chinese["reference"]) == ("人人", "生而自由")
