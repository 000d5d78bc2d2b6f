"""The models of a run beside lm-eval's target, and the decoder that its backend uses."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.decoder import InProcessDecoder
from lm_eval_specfair.decoding.families.refusals import examine
from lm_eval_specfair.decoding.heads.head_folder import found_head
from lm_eval_specfair.decoding.heads.mtp_chain import MTP
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.distributed import agreed
from lm_eval_specfair.harness.batch_size import fastest_rows
from lm_eval_specfair.harness.drafters.loaded_drafters import LoadedDrafters, drafting_with
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.records import RUN_FILE, read_run
from lm_eval_specfair.vllm.text_distributions import TextScores
from lm_eval_specfair.vllm.vllm_decoder import VllmDecoder

logger = logging.getLogger(__name__)

ROWS_ON_VLLM = {"cuda": 256, "cpu": 8}
"""For `--batch_size auto`: vLLM takes requests into its batch, and holds them back, by itself."""


def examined(arguments: Arguments) -> Any:
    """What reads the target's weights; before any are read, both configurations are examined.

    Raises:
        ConfigError: If one tells that its model cannot be decoded, or there is none.
    """
    if arguments.vllm is not None:
        return None
    target = arguments.target
    for drafter in arguments.drafting_models.values():
        is_model = isinstance(drafter, str) and drafter != MTP
        if is_model and found_head(drafter, **arguments.for_hub()) is None:
            examine(drafter, "drafter", **arguments.for_hub())
    names_code = arguments.for_hf.get("trust_remote_code")
    if not isinstance(target, str) or arguments.for_hf.get("gguf_file") or names_code:
        return None
    revision = arguments.for_hf.get("revision")
    return examine(target, "target", revision=revision, **arguments.for_hub())


def in_process(
    arguments: Arguments,
    target: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    drafters: LoadedDrafters,
    *,
    max_rows: int | None,
    rank: int,
    num_processes: int,
) -> InProcessDecoder:
    """This package's engine; all processes that share the run call this together.

    Args:
        arguments: Of the run.
        target: The loaded target.
        tokenizer: Its tokenizer.
        drafters: The loaded drafters.
        max_rows: Most rows decoded together; None for `auto`.
        rank: Of this process.
        num_processes: Number that share the run.

    Raises:
        ConfigError: If a model cannot be decoded with.
    """
    wrapped = CausalModel(target, role="target")
    if (longest := arguments.for_hf.get("max_length")) is not None:
        wrapped.refuse_beyond(int(longest))
    drafting = drafting_with(arguments, drafters, wrapped, tokenizer)
    most_drafted = max(1, arguments.policy.longest)
    max_rows = max_rows or _rows_of_the_run_resumed(arguments)
    if max_rows is None:
        max_rows = agreed(
            lambda: fastest_rows(wrapped, drafting, most_drafted), rank, num_processes
        )
    return InProcessDecoder(wrapped, drafting, max_rows=max_rows)


def _rows_of_the_run_resumed(arguments: Arguments) -> int | None:
    """What `--batch_size auto` chose in the run that is resumed."""
    folder = arguments.records_dir
    if not arguments.resume or folder is None or not (Path(folder) / RUN_FILE).is_file():
        return None
    rows = read_run(Path(folder)).get("settings", {}).get("batch_size")
    return rows if isinstance(rows, int) and rows > 0 else None


def on_vllm(
    arguments: Arguments,
    target: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_rows: int | None,
    max_length: int,
    device: str,
    load_models: Callable[[], tuple[PreTrainedModel, PreTrainedModel]],
) -> VllmDecoder:
    """VLLM's engines.

    Args:
        arguments: Of the run, with `vllm`.
        target: The target, or what has its dtype.
        tokenizer: Its tokenizer.
        max_rows: Most requests decoded together; None for `auto`.
        max_length: Longest text, in tokens.
        device: Kind of device that vLLM runs on.
        load_models: Loads target and drafter into this process, to score texts.

    Raises:
        ConfigError: If the drafter has another tokenizer.
    """
    vllm = arguments.vllm
    assert vllm is not None
    if vllm.drafts_by_model:
        loading.check_same_tokenizer(
            tokenizer,
            str(arguments.drafter),
            instead="Use backend=hf, or vLLM's own intersection of vocabularies: "
            'speculative_config={"use_heterogeneous_vocab": true}',
            **arguments.for_hub(),
        )
    scores = None
    if vllm.score_distributions:
        scores = TextScores(load_models, draws_drafts=vllm.draws_drafts)
    dtype = str(target.dtype).removeprefix("torch.")
    return VllmDecoder(
        {**vllm.engine, "model": arguments.target, "dtype": dtype, "max_model_len": max_length},
        vllm.speculation,
        max_rows=max_rows or ROWS_ON_VLLM.get(device, 8),
        longest=arguments.policy.longest,
        scores=scores,
    )
