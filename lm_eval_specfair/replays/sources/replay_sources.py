"""Finished texts from where people have them: runs, lm-eval's samples, JSON Lines.

- a run's folder: ids as the model read and emitted them;
- `samples_*.jsonl` that lm-eval wrote with `--log_samples` for any model: texts, encoded again;
- JSON Lines with `prompt` and `response`, or `prompt_token_ids` and `response_token_ids`, or chat
  `messages`; any other field may name a group. What vLLM's and SGLang's offline engines return,
  written a JSON object a line, is read as well: `prompt_token_ids` with `outputs`, `output_ids`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import Record, read_records, read_run
from lm_eval_specfair.records.requests_file import read_requests
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.sources.document_share import DocumentShare
from lm_eval_specfair.replays.sources.text_encoder import TextEncoder


@dataclass(frozen=True, slots=True)
class TextSource:
    """The texts of one source.

    Attributes:
        run: `run.json` of a run's folder; empty for other sources.
        records: Of a run's folder, by request.
        num_left_out: Requests without a text to replay: scored ones, failed ones, empty ones.
    """

    texts: Sequence[KnownText]
    run: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Record] = field(default_factory=dict)
    num_left_out: int = 0

    def of_documents(
        self, share: DocumentShare, keep: Callable[[KnownText], bool] | None = None
    ) -> "TextSource":
        """The texts of some documents; of these, those that are to be kept."""
        kept = [text for text in self.texts if share.has(text.doc_id)]
        return dataclasses.replace(self, texts=[t for t in kept if keep is None or keep(t)])


def read_texts(
    path: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    eos_token_id: int | None,
    temperature: float | None = None,
) -> TextSource:
    """Read one source.

    Args:
        path: A run's folder, a samples file, a folder of samples files, or a JSON Lines file.
        tokenizer: Of the target; needed where only text is known.
        max_length: Longest text of the target: lm-eval cuts prompts on the left for it.
        eos_token_id: Ends a text that ended before its limit without a stop string.
        temperature: Of sampled texts whose source does not say.

    Raises:
        ConfigError: If there is no such source, it holds no texts, or a line cannot be read.
    """
    if (path / "run.json").is_file():
        source = _of_run(path)
    else:
        files = sorted(path.glob("**/samples_*.jsonl")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise ConfigError(
                f"{path} is nothing to replay: expected a run's folder, samples_*.jsonl of lm-eval "
                "(--log_samples), or JSON Lines with prompt and response"
            )
        encoder = TextEncoder(tokenizer, max_length, eos_token_id, temperature)
        texts = [text for file in files for text in encoder.texts_of(file)]
        known = [text for text in texts if text is not None]
        source = TextSource(texts=known, num_left_out=len(texts) - len(known))
    if not source.texts:
        raise ConfigError(f"{path} holds no generated text to replay")
    return source


def holds_plain_texts(source: Path) -> bool:
    """Whether it is what training reads: `<group>.txt`, or JSON Lines with `text`."""
    if source.is_dir():
        return any(source.glob("*.txt"))
    if not source.is_file() or source.name.startswith("samples_"):
        return False
    with source.open(encoding="utf-8", errors="replace") as file:
        return '"text"' in next((line for line in file if line.strip()), "")


def _of_run(folder: Path) -> TextSource:
    run, requests = read_run(folder), read_requests(folder)
    if not requests:
        raise ConfigError(
            f"{folder} does not hold its prompts (requests.jsonl): it was made by an older "
            "version. Decode it again, or replay lm-eval's samples of it (--log_samples)"
        )
    texts, records, left_out = [], {}, 0
    for record in read_records(folder):
        asked = requests.get(record.request_id)
        if record.failure is not None or not record.generated_token_ids or asked is None:
            left_out += 1
            continue
        settings = record.settings
        records[record.request_id] = record
        texts.append(
            KnownText(
                request_id=record.request_id,
                task=record.task,
                doc_id=record.doc_id,
                group_fields=record.group_fields,
                prompt=list(asked.prompt_token_ids),
                response=list(record.generated_token_ids),
                text=record.generated_text or "",
                finish_reason=record.finish_reason,
                max_new_tokens=asked.max_new_tokens,
                temperature=settings.temperature if settings else 0.0,
                top_k=settings.top_k if settings else None,
                top_p=settings.top_p if settings else None,
            )
        )
    return TextSource(texts=texts, run=run, records=records, num_left_out=left_out)
