"""Decoding on a pretended GPU: the texts of the CPU, and no tensor that was left on it."""

import copy
import time

import pytest
import torch

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.tiny_models import disturbed, llama
from lm_eval_specfair.decoding.drafters import NoDrafter, PromptLookup
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError

from support.decoding_runs import model_drafter, request
from support.pretended_gpu import DEVICE, Elsewhere, WrongDevice, pretended_gpu

WAYS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
}
REQUESTS = [request([5 + n, 9, 7, 7 + n, 9][: 3 + n % 3], 6 + 2 * n, f"{n}") for n in range(5)]


class Event:
    """Of a stream that is never behind."""

    def __init__(self, **_):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


@pytest.fixture(autouse=True)
def no_stream(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)


def decoded(target, drafter, way):
    """Texts and counts; five requests in three rows, so that rows are refilled and moved."""
    wrapped = CausalModel(target)
    kinds = {
        "model": lambda: model_drafter(drafter, wrapped.vocab_size),
        "prompt_lookup": lambda: PromptLookup(wrapped.device),
        "none": lambda: NoDrafter(wrapped.device),
    }
    found = {}
    for name, make in kinds.items():
        engine = Engine(wrapped, DecodeConfig(num_speculative_tokens=3, seed=1, **WAYS[way]))
        for done in engine.decode(REQUESTS, make(), batch_size=3):
            statistics = done.counters
            sums = (statistics.overlap_sum, statistics.kl_sum, statistics.target_entropy_sum)
            found[name, done.request.request_id] = (
                *(done.token_ids, statistics.accepted_per_step),
                [round(each, 4) for each in sums],
            )
    return found


@pytest.mark.parametrize("way", WAYS)
def test_decoding_elsewhere_gives_the_texts_and_sums_of_the_cpu(way):
    target = llama(0)
    drafter = disturbed(target, 0.02)
    expected = decoded(copy.deepcopy(target), copy.deepcopy(drafter), way)

    with pretended_gpu(target, drafter):
        assert target.device == DEVICE
        found = decoded(target, drafter, way)

    assert found == expected
    assert sum(map(sum, (each[1] for each in found.values()))) > 0


def test_tensors_of_two_devices_do_not_mix():
    with pretended_gpu():
        there = torch.ones(3, device=DEVICE)
        assert isinstance(there, Elsewhere)
        assert there.device == (there + 1).device == DEVICE
        assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]  # as CUDA takes scalars
        assert there[torch.tensor([0, 2])].tolist() == [1, 1]  # and places
        assert type(there.cpu()) is torch.Tensor
        assert isinstance(torch.ones(3).to(DEVICE), Elsewhere)
        for mixing in (
            lambda: there + torch.ones(3),
            lambda: torch.cat([torch.ones(3), there]),
            lambda: torch.where(there > 0, torch.ones(3), there),
            lambda: there.scatter_(0, torch.tensor([1]), 0.0),
        ):
            with pytest.raises(WrongDevice, match="meet others on the CPU"):
                mixing()


@pytest.mark.parametrize("function", ["tensor", "arange", "zeros", "from_numpy"])
def test_a_tensor_made_without_its_device_is_noticed(monkeypatch, function):
    target = llama(0)
    drafter = disturbed(target, 0.02)

    with pretended_gpu(target, drafter):
        original = getattr(torch, function)

        def forgetful(*args, **kwargs):
            found = original(*args, **{k: v for k, v in kwargs.items() if k != "device"})
            if function == "from_numpy":  # its .to(device) is what is forgotten
                return found.as_subclass(_Stays)
            return found

        monkeypatch.setattr(torch, function, forgetful)
        with pytest.raises((WrongDevice, ConfigError), match="meet others on the CPU"):
            decoded(target, drafter, "sampled")


class _Stays(torch.Tensor):
    def to(self, *args, **kwargs):
        return self.as_subclass(torch.Tensor)
