"""One forward pass over finished texts: a model's scores at every token of the responses.

No cache is kept and nothing is rolled back, so any causal architecture serves: sliding windows,
recurrent states and mixtures of both included.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.cache import cache_argument
from lm_eval_specfair.decoding.families.longrope import LongRope, longrope_border
from lm_eval_specfair.decoding.families.refusals import longest_text
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.passes.score_head import score_map
from lm_eval_specfair.replays.passes.shared_prefix import PrefixReader
from lm_eval_specfair.replays.passes.text_batches import HasLimit, TextBatch

# Most padded tokens of one pass, unless one text alone has more, and scores of one chunk: what
# fits into a processor's cache, and what keeps a GPU busy.
_TOKENS_AT_ONCE = {"cpu": 2_048, "cuda": 32_768}
_SCORES_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 26}
_MOST_SCORES = 1 << 26  # 256 MiB in fp32, where a pass makes them all


class Reading:
    """What a model says before each token of a batch's responses, one text after another.

    Most models' scores are made from the last layer's output when they are asked for, and for
    responses only: over a whole vocabulary they are the largest tensors by far.
    """

    def __init__(self, outputs: Tensor, head: Callable[[Tensor], Tensor] | None) -> None:
        self.outputs, self._head = outputs, head

    @torch.inference_mode()
    def scores(self, positions: slice) -> Tensor:
        """Unnormalised log-probabilities, at least fp32, shape (positions, vocab)."""
        outputs = self.outputs[positions]
        scores = outputs if self._head is None else self._head(outputs)
        return scores if scores.dtype == torch.float64 else scores.float()


class TextReader(HasLimit, Protocol):
    """Reads finished texts in batches."""

    vocab_size: int
    max_length: int
    """Longest text, in tokens."""

    @property
    def positions_at_once(self) -> int:
        """Positions whose scores are looked at together."""

    def read(self, batch: TextBatch, *, to_its_end: bool = False) -> Reading:
        """Read a batch; see `OnePass.read`."""


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
        tokens = torch.arange(min(self.vocab_size, self.max_length, 8), device=self.device)
        self.score_map = score_map(model, tokens[None], self._body)
        self._prefixes = None
        if self._longrope is None:
            config = model.config.get_text_config(decoder=True)
            self._prefixes = PrefixReader(self._behind, config)

    @property
    def tokens_at_once(self) -> int:
        """Most padded tokens of one pass."""
        most = tokens_of(self.device)
        return most if self.score_map else min(most, _MOST_SCORES // self.vocab_size)

    @property
    def positions_at_once(self) -> int:
        """Positions whose scores are looked at together."""
        return positions_of(self.device, self.vocab_size)

    @torch.inference_mode()
    def read(self, batch: TextBatch, *, to_its_end: bool = False) -> Reading:
        """Read texts of like length; a prefix that they share only once, where the model allows.

        A text that is longer than the model can read is read up to there; what is said of its
        remaining tokens means nothing. With `to_its_end` it is tried whole.

        Raises:
            ConfigError: If the model cannot read them.
        """
        texts = batch.texts
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
            if self._longrope is not None:
                outputs = self._by_length(padded, [len(row) for row in rows], first, self._longrope)
            elif (found := self._read_behind(batch.num_shared, rows, padded)) is not None:
                outputs = found
            else:
                outputs = self._outputs(padded, first)
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
        return Reading(outputs[owners, places], self.head)

    def _read_behind(
        self, num_shared: int, rows: Sequence[Sequence[int]], padded: Tensor
    ) -> Tensor | None:
        if not num_shared or self._prefixes is None or not self._prefixes.works:
            return None
        if any(len(row) <= num_shared for row in rows):  # cut at the longest text
            return None
        return self._prefixes.read(rows, num_shared, padded)

    def _outputs(self, tokens: Tensor, first: int) -> Tensor:
        """What scores are made of, from a position on that is at most `first`."""
        if self.score_map is not None:
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

    def _body(self, tokens: Tensor, cache: Any = None) -> Tensor:
        given = {} if cache is None else {cache_argument(self._model.forward): cache}
        output: Any = self._model.base_model(input_ids=tokens, use_cache=cache is not None, **given)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _behind(self, tokens: Tensor, cache: Any) -> Tensor:
        """What scores are made of at tokens that follow those of a cache."""
        if self.score_map is not None:
            return self._body(tokens, cache)
        given = {} if cache is None else {cache_argument(self._model.forward): cache}
        logits: Tensor = self._model(input_ids=tokens, use_cache=cache is not None, **given).logits
        return logits

    @property
    def head(self) -> Callable[[Tensor], Tensor] | None:
        """Makes scores of outputs, looked up anew since its matrix may be exchanged."""
        scores_of, matrix = self.score_map, self.matrix
        if scores_of is None or matrix is None:
            return None
        return lambda outputs: scores_of(matrix(outputs))

    @property
    def matrix(self) -> Callable[[Tensor], Tensor] | None:
        """The head's linear layer, where scores follow from it."""
        layer: Any = self._model.get_output_embeddings() if self.score_map is not None else None
        return cast(Callable[[Tensor], Tensor] | None, layer)


def tokens_of(device: torch.device) -> int:
    """Most padded tokens of one pass on a device."""
    return _TOKENS_AT_ONCE["cpu" if device.type == "cpu" else "cuda"]


def positions_of(device: torch.device, vocab_size: int) -> int:
    """Positions whose scores are looked at together on a device."""
    return max(16, _SCORES_AT_ONCE["cpu" if device.type == "cpu" else "cuda"] // vocab_size)
