"""Few-shot examples that never show what the evaluated document is about.

lm-eval leaves out the document itself, and only where the examples' split is named and is the test
split. Here an example shares neither the document, nor its paragraph, nor its translations.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.suites.suite_sources import SOURCES

Row = dict[str, Any]
Trait = tuple[str, str]

# Of data sets that `suite_sources` does not describe: columns that rows about one paragraph share.
_SHARED = ("context", "passage", "story", "article", "document", "premise")
# Names of a document that are the same in all languages; plain numbers start anew in each split.
_NAMES = ("id", "sample_id")


def traits(row: Row, prompt: object, columns: Iterable[str]) -> set[Trait]:
    """What makes two rows one document, paragraph or translation: they have a trait in common.

    Rows about one paragraph are equal in `columns`.
    """
    shared = {("", " ".join(str(prompt).split()))}
    for column in columns:
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            shared.add((column, " ".join(unicodedata.normalize("NFC", value).split())))
    for column in _NAMES:
        name = row.get(column)
        if isinstance(name, str) and not name.isdecimal():
            shared.add((column, name))
    return shared


class ApartSampler(ContextSampler):  # type: ignore[misc]
    """Another sampler, given only the rows that have no trait in common with the document.

    Attributes:
        document: The evaluated document; set before each call of `sample`.
    """

    def __init__(
        self, sampler: ContextSampler, traits_of: Callable[[Row], set[Trait]], where: str
    ) -> None:
        """Take over a sampler's rows; `where` says in messages whose they are."""
        super().__init__(list(sampler.fewshot_docs()))
        sampler.fewshot_indices = None  # has had its effect
        self.document: Row = {}
        self._sampler, self._traits_of, self._where = sampler, traits_of, where
        self._places: dict[Trait, list[int]] = {}

    def set_rnd(self, rnd: int | None) -> "ApartSampler":
        """Seed the choice."""
        self._sampler.set_rnd(rnd)
        return self

    def sample(self, n: int, *_: Any, **__: Any) -> Sequence[Row]:
        """`n` rows apart from the document.

        Raises:
            ConfigError: If there are fewer.
        """
        if not self._places:
            for place, row in enumerate(self.df):
                for trait in self._traits_of(row):
                    self._places.setdefault(trait, []).append(place)
        own = self._traits_of(self.document)
        shared = set[int]().union(*(self._places.get(trait, ()) for trait in own))
        rows = [row for place, row in enumerate(self.df) if place not in shared]
        if len(rows) < n:
            raise ConfigError(
                f"num_fewshot is {n}, but only {len(rows)} of the {len(self.df)} rows of "
                f"{self._where} are of another paragraph than the document that they would stand "
                f"before: ask for at most {len(rows)}"
            )
        chosen: Sequence[Row] = self._sampler.replace_df(rows).sample(n) if n else []
        return chosen


class ApartExamplesTask(ConfigurableTask):  # type: ignore[misc]
    """lm-eval's task, with examples that are apart from the document that they stand before."""

    sampler: ContextSampler

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the YAML's settings."""
        super().__init__(config={k: v for k, v in config.items() if k != "class"})
        if hasattr(self, "sampler"):
            where = f"{self.config.task} ({self.fewshot_cfg.split or 'the evaluated split'})"
            self.sampler = ApartSampler(self.sampler, self._traits_of, where)

    def _traits_of(self, row: Row) -> set[Trait]:
        source = SOURCES.get(self.config.dataset_path)
        return traits(row, self.doc_to_text(row), source.shared if source else _SHARED)

    def fewshot_context(self, doc: Row, num_fewshot: int, *args: Any, **kwargs: Any) -> Any:
        """lm-eval's prompt with examples; `ConfigError` if too few rows are apart from `doc`."""
        if num_fewshot and isinstance(self.sampler, ApartSampler):
            self.sampler.document = doc
        return super().fewshot_context(doc, num_fewshot, *args, **kwargs)
