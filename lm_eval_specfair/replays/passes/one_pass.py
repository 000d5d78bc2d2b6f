"""One forward pass over finished texts: a model's scores at every token of the responses.

No cache is kept and nothing is rolled back, so any causal architecture serves: sliding windows,
recurrent states and mixtures of both included.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.families.longrope import LongRope, longrope_border
from lm_eval_specfair.decoding.families.refusals import longest_text
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.known_text import KnownText

# Most padded tokens of one pass, unless one text alone has more, and scores of one chunk: what
# fits into a processor's cache, and what keeps a GPU busy.
_TOKENS_AT_ONCE = {"cpu": 2_048, "cuda": 32_768}
_SCORES_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 26}
_MOST_SCORES = 1 << 26  # 256 MiB in fp32, where a pass makes them all


class Reading:
    """What a model says before each token of a batch's responses, one text after another.

    Most models' scores are made from the last layer's output when they are asked for, and for
    responses only: over a whole vocabulary they are the largest tensors by far.
    """

    def __init__(self, outputs: Tensor, head: Callable[[Tensor], Tensor] | None) -> None:
        self._outputs, self._head = outputs, head

    @torch.inference_mode()
    def scores(self, positions: slice) -> Tensor:
        """Unnormalised log-probabilities, at least fp32, shape (positions, vocab)."""
        outputs = self._outputs[positions]
        scores = outputs if self._head is None else self._head(outputs)
        return scores if scores.dtype == torch.float64 else scores.float()


class OnePass:
    """A model, in evaluation mode on its device, that reads finished texts."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.vocab_size = int(model.config.get_text_config(decoder=True).vocab_size)
        self.max_length = longest_text(model.config)
        self.device = torch.device(model.device)
        self._keeps_some = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._longrope = None
        if longrope_border(model.config.get_text_config(decoder=True)) is not None:
            self._longrope = LongRope(model)
        self._is_headed = self._has_separate_head()

    @property
    def tokens_at_once(self) -> int:
        """Most padded tokens of one pass."""
        most = _of_device(_TOKENS_AT_ONCE, self.device)
        return most if self._head else min(most, _MOST_SCORES // self.vocab_size)

    @property
    def positions_at_once(self) -> int:
        """Positions whose scores are looked at together."""
        return max(16, _of_device(_SCORES_AT_ONCE, self.device) // self.vocab_size)

    @torch.inference_mode()
    def read(self, texts: Sequence[KnownText], *, to_its_end: bool = False) -> Reading:
        """Read texts of like length (see `batches`).

        A text that is longer than the model can read is read up to there; what is said of its
        remaining tokens means nothing. With `to_its_end` it is tried whole.

        Raises:
            ConfigError: If the model cannot read them.
        """
        rows = [[*text.prompt, *text.response[:-1]] for text in texts]
        if not to_its_end:
            rows = [row[: self.max_length] for row in rows]
        width = max(map(len, rows))
        # Padding is on the right, where no earlier position can see it. A token that only another
        # model's vocabulary has is read as the last one here.
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        padded = padded.clamp(max=self.vocab_size - 1).to(self.device)
        first = min(width, *(len(text.prompt) for text in texts)) - 1
        try:
            if self._longrope is None:
                outputs = self._outputs(padded, first)
            else:
                outputs = self._by_length(padded, [len(row) for row in rows], first, self._longrope)
        except ConfigError:
            raise
        except (ValueError, IndexError, TypeError) as error:
            name = getattr(self._model.config, "_name_or_path", "") or type(self._model).__name__
            raise ConfigError(
                f"{name} cannot read texts of {width} tokens in one pass "
                f"({type(error).__name__}: {str(error).splitlines()[0]:.120})"
            ) from error
        first = width - outputs.shape[1]
        places = [
            min(len(text.prompt) - 1 - first + number, outputs.shape[1] - 1)
            for text in texts
            for number in range(len(text.response))
        ]
        owners = [row for row, text in enumerate(texts) for _ in text.response]
        return Reading(outputs[owners, places], self._head)

    def _outputs(self, tokens: Tensor, first: int) -> Tensor:
        """What scores are made of, from a position on that is at most `first`."""
        if self._head is not None:
            return self._body(tokens)[:, first:]
        keep = torch.arange(first, tokens.shape[1], device=self.device)
        some = {"logits_to_keep": keep} if self._keeps_some and first else {}
        logits: Tensor = self._model(input_ids=tokens, use_cache=False, **some).logits
        return logits

    def _by_length(
        self, padded: Tensor, lengths: list[int], first: int, longrope: LongRope
    ) -> Tensor:
        """The same where rope has other factors beyond a length: each token as it was decoded.

        Raises:
            ConfigError: If a key keeps the factors of the length at which it was read.
        """
        border = longrope.border
        if max(lengths) > border and not longrope.reads_anew:
            raise ConfigError(
                f"longrope of {type(self._model).__name__} depends on how a text was read, which "
                f"is unknown beyond {border} tokens: it cannot be read in one pass"
            )
        read = []
        for row, length in zip(padded, lengths, strict=True):
            outputs = self._outputs(row[None, :length], min(first, length - 1))[0]
            skipped = length - len(outputs)
            if length > border > skipped:
                outputs[: border - skipped] = self._outputs(row[None, :border], skipped)[0]
            missing = padded.shape[1] - length
            outputs = torch.nn.functional.pad(outputs, (0, 0, 0, missing))
            read.append(outputs[-(padded.shape[1] - first) :])
        return torch.stack(read)

    def _body(self, tokens: Tensor) -> Tensor:
        output: Any = self._model.base_model(input_ids=tokens, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @property
    def _head(self) -> Callable[[Tensor], Tensor] | None:
        head: Any = self._model.get_output_embeddings() if self._is_headed else None
        return cast(Callable[[Tensor], Tensor] | None, head)

    @torch.inference_mode()
    def _has_separate_head(self) -> bool:
        """Whether scores are the last layer's output times the head and nothing else."""
        head: Any = self._model.get_output_embeddings()
        if head is None or self._model.base_model is self._model:
            return False
        tokens = torch.arange(min(self.vocab_size, self.max_length, 8), device=self.device)[None]
        try:
            separate = head(self._body(tokens))
            whole = self._model(input_ids=tokens, use_cache=False).logits
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return False
        return separate.shape == whole.shape and torch.allclose(
            separate.float(), whole.float(), rtol=1e-3, atol=1e-5
        )


def batches(texts: Iterable[KnownText], readers: Sequence[OnePass]) -> Iterator[list[KnownText]]:
    """Texts of like length and of the same sampling settings together, within a bound on tokens."""
    most = min((reader.tokens_at_once for reader in readers), default=1 << 16)
    batch: list[KnownText] = []
    for text in sorted(texts, key=_order):
        is_full = text.num_read * (len(batch) + 1) > most
        if batch and (is_full or text.sampling != batch[0].sampling):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _order(text: KnownText) -> tuple[float, int, float, int, str]:
    temperature, top_k, top_p = text.sampling
    return temperature, top_k or 0, top_p or 0.0, text.num_read, text.request_id


def _of_device(limits: dict[str, int], device: torch.device) -> int:
    return limits["cpu" if device.type == "cpu" else "cuda"]
