"""What benchmarks share (benchmarks/measuring.py): turns, ratios and memory."""

import mmap
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from lm_eval_specfair.config import DecodeConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from measuring import interleaved, machine, markdown_table, page, paired_ratios, resident_bytes
from pairs import Ours, Pair, first_layers, prompts, random_config


def test_ratios_are_taken_pair_by_pair():
    # Both sides are ten times as slow in the second pair: the machine was busy, the ratio is not.
    found = paired_ratios([200, 20, 240], [100, 10, 80])

    assert found.values == (2, 2, 3)
    assert str(found) == "2.00 [2.00, 3.00]"


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_is_no_pair_is_refused(ours, theirs):
    with pytest.raises(ValueError, match="equally many"):
        paired_ratios(ours, theirs)


def test_sides_take_turns_in_going_first_and_warm_up_is_dropped():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}

    found = interleaved(sides, 2, warm_up=1)

    assert "".join(calls) == "ba" + "ab" + "ba"
    assert found == {"a": [3, 6], "b": [4, 5]}


def test_memory_that_is_taken_shows():
    before = resident_bytes()
    taken = mmap.mmap(-1, 64 << 20)  # not from the heap, which may hold that much free
    for page_start in range(0, len(taken), mmap.PAGESIZE):
        taken[page_start] = 1

    assert resident_bytes() - before == pytest.approx(len(taken), rel=0.1)
    assert resident_bytes(peak=True) > before + 0.9 * len(taken)


def test_a_page_names_command_machine_and_table():
    table = markdown_table(["what", "ratio"], [["us / them", "2.00"]])
    text = page("Speed", [table], load="0.1, 0.1, 0.1")

    assert text.startswith("# Speed\n\n    ")
    assert "| us / them | 2.00    |" in text
    assert machine()["python"] in text


def test_a_random_target_and_its_first_layers_agree_now_and_then(tmp_path):
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 8}
    config = random_config(shape, (2, 1), head_dim=64, vocab_size=8192, tied=False)
    torch.manual_seed(0)
    first_layers(LlamaForCausalLM(config), 2, tmp_path)
    made = Pair("made", tmp_path / "target", tmp_path / "drafter")
    target, drafter = made.models()

    done = Ours(made, DecodeConfig(num_speculative_tokens=4)).decode(prompts(4), 24, 4)

    assert drafter.config.num_hidden_layers == 2
    weights = dict(target.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in drafter.named_parameters())
    kept = [each for one in done for each in one.counters.accepted_per_step]
    assert 0.1 < sum(kept) / (4 * len(kept)) < 0.9
