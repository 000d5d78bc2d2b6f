"""`--batch_size auto`: the number of rows that decodes fastest, found before a run."""

import psutil
import pytest
import torch

from lm_eval_specfair.decoding.drafters import NoDrafter
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.harness import batch_size
from lm_eval_specfair.harness.batch_size import MOST_ROWS_ON_CPU, fastest_rows
from lm_eval_specfair.records import read_run

from support.decoding_runs import model_drafter
from support.evaluations import evaluate, specfair, toy_task

DOCUMENTS = [{"prompt": each, "reference": each} for each in ("one", "two", "three")]


@pytest.fixture
def models(target, near_drafter):
    return CausalModel(target), model_drafter(near_drafter, target.config.vocab_size)


def measured(monkeypatch, speeds, error=None):
    """Let a table say how fast so many rows are; beyond its end there is no memory."""
    tried = []

    def speed(engine, drafter, requests, rows):
        assert len(requests) in (1, 2 * rows)
        tried.append(rows)
        if rows not in speeds:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return speeds[rows]

    monkeypatch.setattr(batch_size, "_row_steps_per_second", speed)
    return tried


@pytest.mark.parametrize(
    ("speeds", "chosen", "last"),
    [
        ({1: 10, 2: 20, 4: 40, 8: 80, 16: 160, 32: 320}, 32, 32),
        ({1: 10, 2: 19, 4: 30, 8: 40, 16: 30, 32: 20, 64: 1}, 8, 32),
        ({1: 10, 2: 20, 4: 20.5, 8: 20.9, 16: 80}, 2, 8),  # hardly faster: not worth the memory
        ({1: 10, 2: 20, 4: 19, 8: 40, 16: 30, 32: 30}, 8, 32),  # one that is slow by chance
        ({1: 10, 2: 20, 4: 40}, 4, 8),  # no memory for eight
        ({1: 10, 2: 9, 4: 8}, 1, 4),
    ],
)
def test_rows_are_doubled_until_that_gains_nothing(models, monkeypatch, speeds, chosen, last):
    tried = measured(monkeypatch, speeds)

    assert fastest_rows(*models, 4) == chosen
    assert max(tried) == last <= MOST_ROWS_ON_CPU


def test_not_more_rows_than_half_of_the_free_memory_would_hold(models, monkeypatch):
    target, _ = models
    target.read_prompts([0], [[1, 2]])
    per_row = min(batch_size.LIKELY_TOKENS, target.max_length) * target.cache.bytes_per_entry
    assert per_row > 0
    monkeypatch.setattr(target, "reset", lambda: None)  # the cache that the table does not fill
    measured(monkeypatch, {1: 10, 2: 20, 4: 40, 8: 80})
    free = psutil.virtual_memory()._replace(available=2 * 4 * per_row)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)

    assert fastest_rows(*models, 4) == 4


def test_another_failure_is_no_lack_of_memory(models, monkeypatch):
    measured(monkeypatch, {1: 10, 2: 20}, error=RuntimeError("expected scalar type Half"))

    with pytest.raises(RuntimeError, match="expected scalar type Half"):
        fastest_rows(*models, 4)


def test_without_memory_for_one_row_the_error_is_told(models, monkeypatch):
    measured(monkeypatch, {})

    with pytest.raises(torch.OutOfMemoryError):
        fastest_rows(*models, 4)


@pytest.mark.parametrize("plain", [False, True])
def test_it_decodes_and_leaves_nothing_behind(models, plain):
    target, drafter = models

    rows = fastest_rows(target, NoDrafter(target.device) if plain else drafter, 1)

    assert rows in (1, 2, 4, 8, 16, 32)
    assert target.cache.lengths == []


def test_the_number_is_on_record_and_a_resumed_run_keeps_it(pair_folder, tmp_path, monkeypatch):
    measured(monkeypatch, {1: 1, 2: 2})
    evaluate(specfair(pair_folder, tmp_path, batch_size="auto"), [toy_task("toy", DOCUMENTS)])
    assert read_run(tmp_path)["settings"]["batch_size"] == 2

    tried = measured(monkeypatch, {1: 3, 2: 2, 4: 1})
    model = specfair(pair_folder, tmp_path, batch_size="auto", resume=True)

    assert tried == []
    evaluate(model, [toy_task("toy", DOCUMENTS)])
    assert read_run(tmp_path)["settings"]["batch_size"] == 2
