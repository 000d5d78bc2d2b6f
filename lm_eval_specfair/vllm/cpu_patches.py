"""Patches of three faults of vLLM 0.32 on CPUs, where its models run in this process.

In other processes (a core's own, or workers that share a model) they are out of reach: sampling
with a drafter is refused there, because the target's distribution would not come out
(measured in `results/vllm/README.md`).
"""

import contextlib
import importlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lm_eval_specfair.errors import ConfigError


def fix_dispatcher() -> None:
    """Let a second engine start in a process where numba is loaded (vLLM's n-gram drafter).

    vLLM reads `vars(x).get` of every object in every module, and llvmlite has one whose `__dict__`
    is not a dictionary. With the core in a process of its own it never gets there.
    """
    with contextlib.suppress(ImportError):
        dispatcher: Any = importlib.import_module("vllm.triton_utils.dispatcher")
        dispatcher.vars = lambda value: each if isinstance(each := vars(value), dict) else {}


def expand(
    output: Tensor,
    values: Tensor,
    cumulated: Tensor,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int | None = None,
) -> None:
    """Repeat each request's value, shape (requests,), for each of its drafted tokens.

    Fills `output`, shape (tokens,), with `replace_to` for `replace_from`. `cumulated`, shape
    (requests,), counts drafted tokens up to and including each request. vLLM passes MAX_NUM_TOKENS
    by this name.
    """
    numbers = torch.diff(cumulated.long(), prepend=cumulated.new_zeros(1).long())
    replaced = torch.where(values == replace_from, torch.full_like(values, replace_to), values)
    output.copy_(replaced.repeat_interleave(numbers))


def expands_rightly(function: Any) -> bool:
    """Whether vLLM's function of this kind fills a tensor of fractions (temperatures)."""
    output = torch.full((3,), 7.0)
    function(output, torch.tensor([0.5, 0.0]), torch.tensor([2, 3], dtype=torch.int32), 0, 1)
    return output.tolist() == [0.5, 0.5, 1.0]


def has_workers(arguments: Mapping[str, Any]) -> bool:
    """Whether engine arguments make vLLM's models run in processes of their own."""
    shares = ("tensor_parallel_size", "pipeline_parallel_size")
    return any(int(arguments.get(name) or 1) > 1 for name in shares) or (
        arguments.get("distributed_executor_backend") in ("mp", "ray")
    )


def make_sampling_exact(arguments: Mapping[str, Any] | None = None) -> bool:
    """Have drafts verified at the temperature that was asked for.

    On CPUs vLLM 0.32 converts the temperatures to integers, fills that copy and continues with
    memory that was never written. To be called before an engine starts, which keeps the function.

    Returns:
        Whether an engine that starts now samples from the target's distribution; False where its
        models will be out of reach.
    """
    platform = importlib.import_module("vllm.platforms").current_platform
    if not platform.is_cpu():
        return True
    platform.import_kernels()
    kernels: Any = importlib.import_module("vllm.utils.cpu_triton_utils")
    if expands_rightly(kernels._expand_kernel_impl):
        return True
    in_core = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") != "0"
    if in_core or has_workers(arguments or {}):
        return False
    kernels._expand_kernel_impl = expand
    samplers: Any = importlib.import_module("vllm.v1.sample.ops.topk_topp_sampler")
    top_k = samplers.apply_top_k_only
    # In a step in which no request has drafts, it takes the maximum of nothing.
    samplers.apply_top_k_only = lambda logits, k: top_k(logits, k) if logits.numel() else logits
    return True


def inexact_sampling() -> ConfigError:
    """The error where `make_sampling_exact` returned False."""
    return ConfigError(
        "this vLLM does not sample from the target's distribution when it drafts on a CPU (it "
        "verifies at temperatures that were never set): set VLLM_ENABLE_V1_MULTIPROCESSING=0 and "
        "tensor_parallel_size=1, with which this package fixes it, or decode greedily or with "
        "drafter=none"
    )
