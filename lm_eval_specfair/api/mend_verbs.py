"""The verbs that mend without training, as functions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lm_eval_specfair.api.frames import LoadedRun, StrPath, run_folder

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from lm_eval_specfair.metrics.draft_length.selection import LengthPolicy
    from lm_eval_specfair.metrics.routing.route_selection import RoutePolicy


def fit(
    *sources: StrPath | LoadedRun,
    output: StrPath,
    kind: Literal["ngram", "lookup"] = "ngram",
    order: int = 4,
    group_by: str | None = None,
    documents: str = "all",
    learn: Literal["answers", "texts"] = "answers",
    tokenizer: str | None = None,
) -> list[Path]:
    """Fit a drafter on the target's texts in seconds (`specfair fit`).

    Args:
        sources: Runs, lm-eval's `samples_*.jsonl`, folders of `<group>.txt`, or JSON Lines.
        output: New folder.
        kind: `ngram`, or `lookup` for a store in which texts are looked up.
        order: Tokens of the longest n-grams.
        group_by: What makes a group, for a drafter each; by default there is one for all.
        documents: `all`, `even`, `odd`, or `K/N` for those whose number leaves K divided by N.
        learn: Answers, or texts with their prompts.
        tokenizer: Of the target, where sources hold text.

    Returns:
        What `drafter` takes: the policy that gives each group its own, where there are groups,
        then the folders, that of the drafter for all first.

    Raises:
        ConfigError: If a source cannot be read, or holds no text.
    """
    from lm_eval_specfair.fitting.fit_notes import fit_notes
    from lm_eval_specfair.fitting.fit_run import fit as run_fit

    done = run_fit(
        [run_folder(source) for source in sources],
        Path(output),
        kind=kind,
        order=order,
        group_by=group_by,
        documents=documents,
        learn=learn,
        tokenizer=tokenizer,
    )
    logger.info("%s", " ".join(fit_notes(done)))
    policies = [] if done.policy is None else [done.policy]
    return policies + [each.folder for each in done.drafters]


def policy(
    *runs: StrPath | LoadedRun,
    group_by: str = "language",
    longest: int | None = None,
    costs: tuple[float, float, float] | Mapping[str, tuple[float, float, float]] | None = None,
    upstreams: Mapping[int, str] | Mapping[int | tuple[str, int], str] | None = None,
    gateway: StrPath | None = None,
    level: float = 0.05,
) -> LengthPolicy | RoutePolicy:
    """The draft length, or the drafter and length, that serves each group best (`specfair policy`).

    Args:
        runs: Runs or replays with one draft length each, by one drafter or several; the policy is
            to improve on the first one's.
        group_by: What makes a group.
        longest: The longest draft length to consider; by default the longest of the runs.
        costs: What drafting a token, verifying and the rest of a step cost, in plain steps; by
            drafter where there are several. By default as measured in the runs.
        upstreams: URLs of servers by the tokens that each drafts per step, or by drafter and
            tokens; only these are chosen among.
        gateway: File (`.json`, `.yaml`, `.csv`) for the table that a gateway reads.
        level: With several drafters, the chance that any group named ends below plain decoding.

    Raises:
        ConfigError: If a run has no single draft length, there is too little to choose from, or
            runs of several drafters are not of the same requests.
    """
    from lm_eval_specfair.files import write_file
    from lm_eval_specfair.metrics.routing.drafter_texts import Route
    from lm_eval_specfair.reporting.policy.build_policy import build_policy
    from lm_eval_specfair.reporting.policy.gateway_table import gateway_table, table_form

    if gateway is not None:
        table_form(Path(gateway))
    servers: dict[int | Route, str] = {
        each if isinstance(each, int) else Route(*each): url
        for each, url in (upstreams or {}).items()
    }
    found = build_policy(
        [run_folder(run) for run in runs],
        group_by=group_by,
        longest=longest,
        costs=costs,
        served=servers,
        level=level,
    )
    if gateway is not None:
        write_file(Path(gateway), gateway_table(found, Path(gateway), servers))
    return found


def prune(
    drafter: StrPath,
    *sources: StrPath | LoadedRun,
    output: StrPath,
    draft_vocabulary: int,
    coverage_floor: float = 0.0,
    group_by: str = "language",
    documents: str = "all",
    tokenizer: str | None = None,
) -> dict[str, float]:
    """Cut a drafter's head to the tokens that every group needs (`specfair prune`).

    Args:
        drafter: Its folder, or an embedded one's name.
        sources: The target's texts: runs, lm-eval's `samples_*.jsonl`, folders of `<group>.txt`, or
            JSON Lines.
        output: New folder, which `drafter` takes.
        draft_vocabulary: Number of tokens that are drafted.
        coverage_floor: Share of each group's tokens that must be among them.
        group_by: What makes a group.
        documents: `all`, `even`, `odd`, or `K/N` for those whose number leaves K divided by N.
        tokenizer: Of the target, where sources hold text.

    Returns:
        The share of each group's tokens that is covered.

    Raises:
        ConfigError: If drafter or sources cannot be read, or so few tokens cannot cover as much.
    """
    from lm_eval_specfair.fitting.prune_run import prune as run_prune

    done = run_prune(
        str(drafter),
        [run_folder(source) for source in sources],
        Path(output),
        draft_vocabulary=draft_vocabulary,
        coverage_floor=coverage_floor,
        group_by=group_by,
        documents=documents,
        tokenizer=tokenizer,
    )
    logger.info("%s", " ".join(done.notes()))
    return dict(zip(done.groups, map(float, done.chosen.coverage), strict=True))
