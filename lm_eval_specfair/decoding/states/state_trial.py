"""The trial of a model with recurrent states: which way of decoding it gives its own scores."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import LAYER_KINDS, layer_kinds
from lm_eval_specfair.decoding.families.self_check import MISFITS, in_words, refuse_unreached
from lm_eval_specfair.decoding.families.short_lengths import named_lengths, shortened
from lm_eval_specfair.decoding.states.row_states import States, map_tensors
from lm_eval_specfair.decoding.states.single_rows import SingleRowModel
from lm_eval_specfair.decoding.states.state_forward import native_scores
from lm_eval_specfair.decoding.states.stateful_model import Stateful, StatefulModel
from lm_eval_specfair.errors import ConfigError

TEXT = 16
PROMPTS = (7, 1, 4)  # tokens of the three rows' prompts


# Largest difference of scores that rounding explains, relative to their standard deviation.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}


def keeps_states(model: PreTrainedModel) -> bool:
    """Whether a model keeps anything between passes that is not keys and values by position."""
    if getattr(model.config, "is_encoder_decoder", False):
        return False
    if getattr(model, "_is_stateful", False):
        return True
    try:
        kinds = layer_kinds(model.config.get_text_config(decoder=True))
    except MISFITS:  # no cache can be made of this configuration, and others say so
        return False
    return not set(kinds) <= set(LAYER_KINDS)


def stateful_model(model: PreTrainedModel, role: str, name: str) -> Stateful:
    """The way of decoding a model that agrees with its own passes, the one of fewest passes first.

    Args:
        model: A model in evaluation mode.
        role: What messages call it.
        name: Its name in them.

    Raises:
        ConfigError: If none agrees.
    """
    config = model.config.get_text_config(decoder=True)
    size = min(int(config.vocab_size), 97)
    texts = [[(7 * i + row) % size for i in range(TEXT)] for row in (1, 3, 5)]
    lengths = named_lengths(config)  # of layers with attention beside those with states
    shown, short = "", None
    try:
        expected = _expected(model, texts)
        if lengths:
            with shortened(model, lengths):
                short = _expected(model, texts)
        ways = _ways(model)
    except MISFITS as error:
        shown, ways = in_words(error), iter(())
    for make in ways:
        try:
            found = make()
            worst = _Trial(found, texts, expected, wrong=size - 1).worst()
            if short is not None:
                with shortened(model, lengths):
                    worst = max(worst, _Trial(found, texts, short, wrong=size - 1).worst())
            allowed = TOLERANCE.get(model.dtype, 0.2) * max(float(torch.cat(expected).std()), 1.0)
            if worst <= allowed and not (found.mode == "block" and _forgets(found, texts)):
                refuse_unreached(lengths, expected, short, f"{role} {name}")
                return found
            shown = f"scores after a roll-back differ by {worst:.3g} from its own"
        except MISFITS as error:
            shown = in_words(error)
    raise ConfigError(
        f"{role} {name} keeps a recurrent state that cannot be rolled back ({shown}). Audit a "
        "drafter on finished texts with `specfair replay`, or decode with backend=vllm."
    )


def _expected(model: PreTrainedModel, texts: list[list[int]]) -> list[Tensor]:
    """A model's own scores of the texts, from the last tokens of their prompts on."""
    return [native_scores(model, text, prompt) for text, prompt in zip(texts, PROMPTS, strict=True)]


def _ways(model: PreTrainedModel) -> Iterator[Callable[[], Stateful]]:
    # A lower bound on time steps holds in passes of several tokens only: how a text was cut into
    # passes matters, perhaps by less than rounding hides.
    bounds = [getattr(module, "time_step_limit", None) for module in model.modules()]
    if not any(bound and bound[0] > 0 for bound in bounds):
        yield lambda: StatefulModel(model, mode="block")
        yield lambda: StatefulModel(model, mode="token")
    yield lambda: StatefulModel(model, mode="token", reads_late=True)
    yield lambda: SingleRowModel(model)
    yield lambda: SingleRowModel(model, reads_late=True)


class _Trial:
    """Three rows that are drafted for, verified and rolled back, beside their expected scores."""

    def __init__(
        self,
        model: Stateful,
        texts: list[list[int]],
        expected: list[Tensor],
        *,
        wrong: int,
    ) -> None:
        self._model, self._texts, self._expected, self._wrong = model, texts, expected, wrong
        self._cache = model.new_cache()
        self._lengths = [prompt - 1 for prompt in PROMPTS]
        self._worst = 0.0

    @torch.inference_mode()
    def worst(self) -> float:
        """The largest difference of a score."""
        prompts = [text[:n] for text, n in zip(self._texts, self._lengths, strict=True)]
        self._model.read_prompts(self._cache, [0, 1, 2], prompts)
        self._verify([0, 2, 1], width=3)
        self._verify([1, 0, 0], width=2)
        self._verify([0, 1, 0], width=3)
        self._draft([0, 1, 0])
        self._draft([0, 0, 0])
        self._cache.settle()
        self._verify([1, 1, 1], width=2)
        return self._worst

    def _verify(self, num_right: list[int], width: int) -> None:
        """Verify a block, of which so many drafts of each row are right."""
        blocks = []
        for text, length, right in zip(self._texts, self._lengths, num_right, strict=True):
            known = text[length : length + 1 + right]
            blocks.append(known + [self._wrong] * (width - len(known)))
        scores = self._model.score(self._cache, torch.tensor(blocks), None)
        for row, right in enumerate(num_right):
            self._compare(row, scores[row, : right + 1])
        self._cache.lengths[:3] = self._lengths

    def _draft(self, at: list[int]) -> None:
        """Read some tokens of each row as a drafter does, then a wrong one, and go back."""
        blocks = [
            text[length : length + max(at) + 1]
            for text, length in zip(self._texts, self._lengths, strict=True)
        ]
        scores = self._model.score(self._cache, torch.tensor(blocks), torch.tensor(at))
        for row, last in enumerate(at):
            self._lengths[row] += last
            self._compare(row, scores[row][None])
        self._cache.lengths[:3] = self._lengths
        wrong = torch.full((3, 1), self._wrong)
        self._model.score(self._cache, wrong, torch.zeros(3, dtype=torch.long))

    def _compare(self, row: int, scores: Tensor) -> None:
        start = self._lengths[row] + 1 - PROMPTS[row]
        self._lengths[row] += len(scores)
        expected = self._expected[row][start : start + len(scores)]
        worst = float((scores.double() - expected.double()).abs().max())
        self._worst = max(self._worst, worst if worst == worst else float("inf"))


@torch.inference_mode()
def _forgets(model: Stateful, texts: list[list[int]]) -> bool:
    """Whether a block's scores are the same to the last bit whatever one kind of state is.

    Where numbers have few bits, that shows what is hidden by rounding.
    """
    cache: Any = model.new_cache()
    model.read_prompts(cache, [0, 1], [text[: PROMPTS[0]] for text in texts[:2]])
    block = torch.tensor([text[PROMPTS[0] :][:3] for text in texts[:2]])
    kept = cache.row_states
    states = kept.gather([0, 1])
    plain = model.score(cache, block, None)
    kinds = {name for values in states for name in values if _has_tensors(values[name])}
    for kind in kinds:
        changed: States = [
            {
                name: map_tensors(lambda x: x + 0.5, value) if name == kind else value
                for name, value in values.items()
            }
            for values in states
        ]
        for row in (0, 1):
            kept.drop(row)
        kept.keep(changed, {row: (row, PROMPTS[0]) for row in (0, 1)})
        cache.lengths[:2] = [PROMPTS[0]] * 2
        if torch.equal(model.score(cache, block, None), plain):
            return True
    return False


def _has_tensors(value: object) -> bool:
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return bool(found)
