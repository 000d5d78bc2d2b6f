"""One forward pass over finished texts: a model's scores at every token of the responses.

No cache is kept and nothing is rolled back, so any causal architecture serves: sliding windows,
recurrent states and mixtures of both included.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_specfair.decoding.families.refusals import longest_text
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.replays.known_text import KnownText

# Most padded tokens, and scores (256 MiB in fp32), of one pass, unless one text alone has more.
TOKENS_AT_ONCE, _SCORES_AT_ONCE = 4_096, 1 << 26


class OnePass:
    """A model, in evaluation mode on its device, that reads finished texts."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.vocab_size = int(model.config.get_text_config(decoder=True).vocab_size)
        self.max_length = longest_text(model.config)
        self._keeps_some = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def scores(self, texts: Sequence[KnownText]) -> list[Tensor]:
        """Scores before each token of the responses of texts of like length (see `batches`).

        Returns:
            For each text unnormalised log-probabilities, shape (num_response_tokens, vocab): row i
            was computed from the prompt and the first i tokens of the response.

        Raises:
            ConfigError: If the model cannot read them.
        """
        rows = [[*text.prompt, *text.response[:-1]] for text in texts]
        width = max(map(len, rows))
        # Padding is on the right, where no earlier position can see it. A token that only another
        # model's vocabulary has is read as the last one here.
        padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        padded = padded.clamp(max=self.vocab_size - 1).to(self._model.device)
        first = min(len(text.prompt) for text in texts) - 1
        first = first if self._keeps_some else 0
        keep = {"logits_to_keep": torch.arange(first, width, device=padded.device)} if first else {}
        try:
            logits = self._model(input_ids=padded, use_cache=False, **keep).logits
        except (ValueError, IndexError, TypeError) as error:
            name = getattr(self._model.config, "_name_or_path", "") or type(self._model).__name__
            raise ConfigError(
                f"{name} cannot read texts of {width} tokens in one pass "
                f"({type(error).__name__}: {str(error).splitlines()[0]:.120})"
            ) from error
        starts = [len(text.prompt) - 1 - first for text in texts]
        return [
            logits[row, start : start + len(text.response)]
            for row, (text, start) in enumerate(zip(texts, starts, strict=True))
        ]


def batches(texts: Iterable[KnownText], vocab_size: int) -> Iterator[list[KnownText]]:
    """Texts of like length together, within a bound on tokens and on scores.

    `vocab_size` is the largest of the models that will read them.
    """
    batch: list[KnownText] = []
    shortest_prompt = 0
    for text in sorted(texts, key=lambda text: (text.num_read, text.request_id)):
        width, rows = text.num_read, len(batch) + 1
        prompt = min(shortest_prompt or len(text.prompt), len(text.prompt))
        scores = (width - prompt + 1) * rows * vocab_size
        if batch and (width * rows > TOKENS_AT_ONCE or scores > _SCORES_AT_ONCE):
            yield batch
            batch, prompt = [], len(text.prompt)
        batch.append(text)
        shortest_prompt = prompt
    if batch:
        yield batch
