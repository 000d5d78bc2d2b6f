"""Functions that task YAMLs name: documents, request building, scoring. No torch.

A YAML says `!function lm_eval_specfair.harness.tasks.NAME`, so that `task_configs/` stays free of
Python and everything here is typed and tested.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.paths import task_configs_dir
from lm_eval_specfair.text_lines import file_lines

Pair = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """What a generated text's `spec` says: counts, from which any ratio can be pooled."""

    num_steps: int
    num_accepted: int
    num_examined: int
    overlap_sum: float
    num_positions: int


class GeneratedText(str):
    """A generated text that carries how it was accepted.

    lm-eval's default filter hands it on as it is; filters that cut strings (`regex`) return plain
    ones, so tasks that want the numbers parse the answer in `process_results`.
    """

    spec: Acceptance | None

    def __new__(cls, text: str, spec: Acceptance | None = None) -> "GeneratedText":
        """A text with its acceptance."""
        made = super().__new__(cls, text)
        made.spec = spec
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep `spec` where lm-eval sends results between processes."""
        return (GeneratedText, (str(self), self.spec))


def acceptance_metrics(text: str) -> dict[str, Pair]:
    """Pairs (numerator, denominator) of a text's acceptance, for `aggregation: pooled`.

    Empty for texts of other models (`--model hf`) and for plain decoding, so that the same task
    runs there too.
    """
    spec = getattr(text, "spec", None)
    if spec is None or not spec.num_examined:
        return {}
    return {
        "conditional_acceptance_rate": (spec.num_accepted, spec.num_examined),
        "mean_acceptance_length": (spec.num_accepted + spec.num_steps, spec.num_steps),
        "overlap": (spec.overlap_sum, spec.num_positions),
    }


def pooled(pairs: Iterable[Pair]) -> float:
    """Sum of numerators over sum of denominators; NaN where nothing was counted.

    Example:
        >>> pooled([(1, 2), (3, 6)])
        0.5
    """
    numerators, denominators = zip(*pairs, strict=True)
    total = sum(denominators)
    return sum(numerators) / total if total else math.nan


class GenerateAndScore(ConfigurableTask):  # type: ignore[misc]
    """A generation task that also has its reference scored, in the same run.

    Each document makes two requests: its continuation is generated (acceptance), and the reference
    is scored by the target (bits per byte). Use it as `class:` of a `generate_until` task.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the YAML's settings."""
        super().__init__(config={k: v for k, v in config.items() if k != "class"})
        if not self.has_training_docs() and not self.has_validation_docs():
            # lm-eval leaves the document out of its own examples only where their split is named.
            self.fewshot_cfg.split = self.fewshot_cfg.split or self.config.test_split

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, *args: Any, **kw: Any) -> Any:
        """lm-eval's prompt with examples.

        Raises:
            ConfigError: If there are too few documents besides this one.
        """
        others = sum(row != doc for row in self.fewshot_docs()) if num_fewshot else 0
        if num_fewshot > others:
            raise ConfigError(
                f"num_fewshot is {num_fewshot}, but {self.config.task} has {others} documents "
                f"besides the one that is asked: ask for at most {others}"
            )
        return super().fewshot_context(doc, num_fewshot, *args, **kw)

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        """The generation request and the reference's scoring request."""
        generation = super().construct_requests(doc, ctx, **kwargs)
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        reference = f"{self.config.target_delimiter}{self.doc_to_target(doc)}"
        scoring = Instance(
            request_type="loglikelihood", doc=doc, arguments=(ctx, reference), idx=1, **kwargs
        )
        return [generation, scoring]


def acceptance_and_bits(doc: dict[str, Any], results: list[Any]) -> dict[str, Pair]:
    """Results of `GenerateAndScore`: acceptance of the text, bits per byte of the reference."""
    text, (log_likelihood, _) = results
    bits = -log_likelihood / math.log(2)
    return {
        **acceptance_metrics(text),
        "bits_per_byte": (bits, len(doc["reference"].encode("utf-8"))),
    }


def demo_documents(*, lang: str, **_: Any) -> datasets.DatasetDict:
    """The demo suite's documents in one language (a BCP-47 code).

    Raises:
        ConfigError: If there is no such language.
    """
    folder = task_configs_dir() / "specfair_demo" / "documents"
    path = folder / f"{lang}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
        raise ConfigError(f"the demo suite has no language {lang!r}; it has {known}")
    rows = [json.loads(line) for line in file_lines(path)]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
