"""Tiny real models, built in memory: nothing is downloaded, nothing is simulated."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Workers side by side (make test) share the cores, also with processes that tests start. Not set
# in the process that starts them, as they would inherit it.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import sys
from pathlib import Path

import absl.logging
import pytest
from transformers import LlamaForCausalLM

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, disturbed, llama

# rouge_score brings absl, whose handler closes the stream that it was made with where that is no
# longer sys.stderr: pytest's own, when import-linter configures logging anew.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session")
def target() -> LlamaForCausalLM:
    return llama(0)


@pytest.fixture(scope="session")
def near_drafter(target) -> LlamaForCausalLM:
    """Accepted about half of the time."""
    return disturbed(target, 0.02)


@pytest.fixture(scope="session")
def far_drafter() -> LlamaForCausalLM:
    """Hardly ever accepted."""
    return llama(1, layers=1)


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory, target, near_drafter) -> Path:
    """A target and a drafter on disk, as a user has them: `target/` and `drafter/`."""
    folder = tmp_path_factory.mktemp("pair")
    for name, model in (("target", target), ("drafter", near_drafter)):
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    return folder
