"""Finished texts of each kind of layer are read as they were decoded, padded beside others."""

import pytest
import torch

from lm_eval_specfair.conformance.tiny_families import FAMILIES, PROMPTS, family
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.passes.text_batches import TextBatch

from support.decoding_runs import plain_scores
from support.family_marks import marked
from support.recurrent_families import RECURRENT, recurrent

QUICK = ("gemma4", "llama4", "phi4_longrope")


def texts() -> list[KnownText]:
    return [
        KnownText(
            request_id=str(number), task="toy", doc_id=number, prompt=prompt,
            response=PROMPTS[number - 1][:9], text="",
        )
        for number, prompt in enumerate(PROMPTS)
    ]  # fmt: skip


def worst_difference(model) -> float:
    """Of scores read together and of each text alone, as long as it was then, by their spread."""
    scores = OnePass(model).read(TextBatch(texts())).scores(slice(None))
    expected = [
        plain_scores(model, text.prompt + text.response[:place])[-1]
        for text in texts()
        for place in range(len(text.response))
    ]
    return float((scores - torch.stack(expected)).abs().max() / scores.std())


@pytest.mark.parametrize("name", marked(FAMILIES, QUICK))
def test_scores_are_those_of_each_text_alone(name):
    if name == "llama_longrope":
        with pytest.raises(ConfigError, match="cannot be read in one pass"):
            OnePass(family(name)).read(TextBatch(texts()))
        return
    assert worst_difference(family(name)) < 2e-3


# A pass over the text is another model than the steps of `generate` (bounds on time steps), or
# scores a beginning otherwise when more follows (compressed keys).
OTHER_IN_ONE_PASS = ("zamba2", "nemotron_h", "deepseek_v4")


@pytest.mark.parametrize(
    "name", marked([name for name in RECURRENT if name not in OTHER_IN_ONE_PASS], ())
)
def test_models_with_states_too(name):
    assert worst_difference(recurrent(name)) < 2e-3
