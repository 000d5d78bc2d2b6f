"""The task class of the suites: rows by the loader, acceptance beside quality. No torch.

A YAML names it as `class:` and says everything else as any lm-eval task does.
"""

from typing import Any

import datasets

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.suites.fewshot import ApartExamplesTask
from lm_eval_specfair.harness.suites.mirror import load_split, mirror_files, mirror_folder
from lm_eval_specfair.harness.tasks import GeneratedText, acceptance_metrics, pooled

GROUP_FIELDS = ("language", "source_language", "other_language", "domain")
ACCEPTANCE_METRICS = ("mean_acceptance_length", "conditional_acceptance_rate", "overlap")


class SuiteTask(ApartExamplesTask):
    """A generation task whose rows come from a mirror or the hub, with acceptance metrics.

    What lm-eval's own YAML keys mean here:

    - `dataset_path`, `dataset_name`: the data set and its configuration.
    - `test_split` (or `validation_split`): what is evaluated. `fewshot_split`: where examples are
      from; it may be missing from a mirror as long as no examples are asked for. A task that names
      none has its examples from the evaluated split, apart from the document (`fewshot`).
    - `dataset_kwargs`: how rows are chosen, see `chosen`.
    - `metadata`: `language` (BCP-47) and the other `GROUP_FIELDS`, which become columns of each
      document where the rows have none, since records keep what documents say; `suite`, named
      where data is missing; `data_dir`, usually from lm-eval's `--metadata`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the YAML's settings."""
        self._missing_examples: str | None = None
        super().__init__(config)
        for metric in ACCEPTANCE_METRICS:  # a task of lm-eval does not list them
            self._aggregation_list.setdefault(metric, pooled)
            self._higher_is_better.setdefault(metric, True)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Read the rows.

        Raises:
            ConfigError: If they are found nowhere.
        """
        metadata = self.config.metadata or {}
        mirror = mirror_folder(metadata.get("data_dir"))
        choice = dict(dataset_kwargs or {})
        choice.pop("trust_remote_code", None)

        def rows_of(split: str) -> datasets.Dataset:
            def load(config: str | None) -> datasets.Dataset:
                return load_split(
                    self.config.dataset_path,
                    config,
                    split,
                    mirror=mirror,
                    suite=metadata.get("suite"),
                    ask_hub=split == evaluated or not in_mirror,
                )

            rows = load(self.config.dataset_name)
            if "pair_with" in choice:
                rows = paired(rows, load(choice["pair_with"]), into=choice["into"])
            rows = chosen(rows, choice if split == evaluated else {**choice, "documents": None})
            for field in GROUP_FIELDS:
                if field in metadata and field not in rows.column_names:
                    rows = rows.add_column(field, [metadata[field]] * len(rows))
            return rows

        evaluated = self.config.test_split or self.config.validation_split
        # Examples come from where the documents come from; a machine without a network would wait
        # for the hub in each of a suite's tasks.
        place = (self.config.dataset_path, self.config.dataset_name, evaluated)
        in_mirror = mirror is not None and bool(mirror_files(mirror, *place))
        self.dataset = datasets.DatasetDict({evaluated: rows_of(evaluated)})
        for key in ("fewshot_split", "training_split"):
            split = getattr(self.config, key)
            if split is None or split in self.dataset:
                continue
            try:
                self.dataset[split] = rows_of(split)
            except ConfigError as error:
                self._missing_examples = str(error)
                setattr(self.config, key, None)
                self.fewshot_cfg.split = None

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, *args: Any, **kw: Any) -> Any:
        """lm-eval's prompt with examples; `ConfigError` if there are too few, or no such split."""
        if num_fewshot and self._missing_examples and self.config.fewshot_split is None:
            raise ConfigError(f"num_fewshot is {num_fewshot}, but {self._missing_examples}")
        return super().fewshot_context(doc, num_fewshot, *args, **kw)

    def apply_filters(self) -> Any:
        """Filters that cut a text return a plain string; let it carry its acceptance again."""
        result = super().apply_filters()
        for instance in self._instances:
            spec = getattr(instance.resps[0], "spec", None) if instance.resps else None
            for name, text in instance.filtered_resps.items():
                if spec is not None and type(text) is str:
                    instance.filtered_resps[name] = GeneratedText(text, spec)
        return result

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
        """Quality, as the YAML defines it, and acceptance where the model drafted."""
        return {**super().process_results(doc, results), **acceptance_metrics(results[0])}


def chosen(rows: datasets.Dataset, choice: dict[str, Any]) -> datasets.Dataset:
    """The rows of a split that a task uses.

    Args:
        rows: All rows.
        choice: `id_prefix`: only rows whose `id` begins so. `documents`: at most this many, evenly
            spread over the split, so that parallel data sets stay parallel.

    Raises:
        ConfigError: If no row is left.
    """
    prefix, count = choice.get("id_prefix"), choice.get("documents")
    if prefix is not None:
        places = [i for i, name in enumerate(rows["id"]) if name.startswith(prefix)]
        if not places:
            raise ConfigError(f"expected rows whose id begins with {prefix!r}, found none")
        rows = rows.select(places)
    if count is not None and len(rows) > count:
        rows = rows.select([i * len(rows) // count for i in range(count)])
    return rows


def paired(rows: datasets.Dataset, others: datasets.Dataset, *, into: str) -> datasets.Dataset:
    """Sentences with their translations, joined by `id`, as columns `source` and `target`.

    Args:
        rows: The suite's language, with the columns `id` and `text`.
        others: English, with the same.
        into: What is generated: "language" or "english".

    Raises:
        ConfigError: If a sentence has no translation.
    """
    english = dict(zip(others["id"], others["text"], strict=True))
    without = [name for name in rows["id"] if name not in english]
    if without:
        raise ConfigError(
            f"expected each sentence's id in the English rows too, {len(without)} have none (the "
            f"first: {without[0]}): fetch both configurations from the same version"
        )
    own = list(rows["text"])
    translations = [english[name] for name in rows["id"]]
    source, target = (translations, own) if into == "language" else (own, translations)
    kept = [name for name in ("id", "domain", "topic", "url") if name in rows.column_names]
    return rows.select_columns(kept).add_column("source", source).add_column("target", target)
