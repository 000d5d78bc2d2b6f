"""Finished texts of each kind of layer are read as they were decoded, padded beside others."""

import pytest
import torch

from lm_eval_specfair.conformance.tiny_families import FAMILIES, PROMPTS, family
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.one_pass import OnePass

from support.decoding_runs import plain_scores

QUICK = ("gemma3", "llama4", "phi4_longrope")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAMILIES]
)
def test_scores_are_those_of_each_text_alone(name):
    model = family(name)
    texts = [
        KnownText(
            request_id=str(number), task="toy", doc_id=number, prompt=prompt,
            response=PROMPTS[number - 1][:9], text="",
        )
        for number, prompt in enumerate(PROMPTS)
    ]  # fmt: skip

    if name == "llama_longrope":
        with pytest.raises(ConfigError, match="cannot be read in one pass"):
            OnePass(model).read(texts)
        return
    scores = OnePass(model).read(texts).scores(slice(None))

    expected = []
    for text in texts:
        for place in range(len(text.response)):  # as long as the text was then
            expected.append(plain_scores(model, text.prompt + text.response[:place])[-1])
    worst = float((scores - torch.stack(expected)).abs().max())
    assert worst < 2e-3 * float(scores.std()), worst
