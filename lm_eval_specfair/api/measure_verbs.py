"""The verbs that measure, as functions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from lm_eval_specfair.api.frames import LoadedRun, Report, StrPath, run_folder
from lm_eval_specfair.api.read_verbs import load_run
from lm_eval_specfair.groups.assign import DEFAULT_MIN_REQUESTS
from lm_eval_specfair.groups.user_file import read_mapping

logger = logging.getLogger(__name__)


def import_logs(
    *sources: StrPath,
    output: StrPath,
    group_fields: Mapping[str, str] | Sequence[str] = (),
    documents: StrPath | None = None,
    snapshots: Sequence[tuple[str, StrPath, StrPath]] = (),
    task: str | None = None,
    api: str | None = None,
) -> LoadedRun:
    """Read what others logged of a server's traffic (`specfair import-logs`).

    Args:
        sources: AIPerf's `profile_export.jsonl` or its folder, or saved answers of servers, a JSON
            object a line.
        output: New folder for the records.
        group_fields: Fields that name groups, or each with its place in a line, such as
            `{"domain": "metadata.source_kind"}`; usual names are found without.
        documents: What was sent, as JSON Lines, where it says what belongs to which group.
        snapshots: A group, and a server's `/metrics` before and after its traffic.
        task: Name of the records' task; by default that of each file.
        api: `vllm`, `sglang` or `llamacpp`, where answers do not tell.

    Raises:
        ConfigError: If a log cannot be read, or a request has no document.
    """
    from lm_eval_specfair.logs.log_import import Snapshots
    from lm_eval_specfair.logs.log_import import import_logs as read_logs

    places = dict(group_fields) if isinstance(group_fields, Mapping) else {}
    totals = read_logs(
        [Path(source) for source in sources],
        Path(output),
        group_fields=places or {name: name for name in group_fields},
        documents=None if documents is None else Path(documents),
        snapshots=[Snapshots(group, Path(old), Path(new)) for group, old, new in snapshots],
        task=task,
        api=api,
    )
    logger.info("%s", " ".join(totals.notes()))
    return load_run(Path(output))


def replay(
    *sources: StrPath | LoadedRun,
    drafter: str | Sequence[str],
    output: StrPath,
    target: str | None = None,
    target_cache: StrPath | None = None,
    tokenizer: str | None = None,
    documents: str = "all",
    num_speculative_tokens: int | Sequence[int] = 4,
    drafter_temperature: float | None = None,
    seed: int = 0,
    device: str | None = None,
    costs: tuple[float, float, float] | StrPath | LoadedRun | None = None,
    measure_costs: bool = False,
    references: bool = False,
) -> list[LoadedRun]:
    """Audit drafters on texts that exist, without decoding them again (`specfair replay`).

    Args:
        sources: Runs, lm-eval's `samples_*.jsonl`, or JSON Lines with `prompt` and `response`.
        drafter: One or several: folders, hub ids, `embedded`, `prompt_lookup`, `suffix_lookup`,
            `LOOKUP+NAME`, fitted drafters; or a policy's file by itself.
        output: New folder; with several drafters or draft lengths, one for each in it.
        target: Adds overlap and KL, checks greedy texts, and is needed for sampled ones.
        target_cache: Folder that keeps the target's pass: later replays of the same texts
            need no `target`.
        tokenizer: Of the target, where sources hold text.
        documents: `all`, `even`, `odd`, or `K/N` for those whose number leaves K divided by N.
        num_speculative_tokens: One draft length, or several.
        drafter_temperature: The drafters' own along sampled texts; None for the texts'.
        seed: For sampled texts.
        device: Where models are put; by default a GPU where there is one.
        costs: c, v and o of a step in plain steps, or a decoded run that measured them.
        measure_costs: Measure them here, for a few seconds; needs the target.
        references: The responses are people's, not the target's: both models read them.

    Returns:
        A run for each drafter and draft length, which `report` and `compare` take.

    Raises:
        ConfigError: If a source or a model cannot be read.
    """
    from lm_eval_specfair.replays.routed_replay import replay as run_replay

    lengths = num_speculative_tokens
    done = run_replay(
        [run_folder(source) for source in sources],
        [drafter] if isinstance(drafter, str) else list(drafter),
        Path(output),
        target=target,
        target_cache=None if target_cache is None else Path(target_cache),
        tokenizer=tokenizer,
        documents=documents,
        lengths=[lengths] if isinstance(lengths, int) else list(lengths),
        drafter_temperature=drafter_temperature,
        seed=seed,
        device=device,
        costs=costs if isinstance(costs, tuple | None) else run_folder(costs),
        measure_costs=measure_costs,
        references=references,
    )
    logger.info("%s", " ".join(done.notes()))
    return [load_run(folder) for folder in done.folders]


def coverage(
    *sources: StrPath | LoadedRun,
    draft_vocabulary: str,
    tokenizer: str | None = None,
    group_by: str = "language",
    groups: StrPath | None = None,
    min_requests: int = DEFAULT_MIN_REQUESTS,
) -> Report:
    """The share of texts' tokens that a drafter can propose, by group (`specfair coverage`).

    Args:
        sources: Runs, lm-eval's `samples_*.jsonl`, a folder of `<group>.txt`, or JSON Lines.
        draft_vocabulary: A head's safetensors file or folder (`d2t`, `t2d`), or a drafter: folder
            or hub id with a tokenizer.
        tokenizer: Of the target, where sources hold text and no ids, or a drafter's is compared
            with it.
        group_by: What makes a group.
        groups: A file with your own groups of tasks and languages.
        min_requests: Groups with fewer texts are not reported.

    Returns:
        A report whose `by_group` has `draft_vocabulary_coverage`.

    Raises:
        ConfigError: If a source, the vocabulary or the tokenizer cannot be read.
    """
    from lm_eval_specfair.replays.draft_coverage import coverage as count_covered

    return Report(
        count_covered(
            [run_folder(source) for source in sources],
            draft_vocabulary,
            tokenizer=tokenizer,
            group_by=group_by,
            mapping=None if groups is None else read_mapping(Path(groups)),
            min_requests=min_requests,
        )
    )
