"""Rounds of training, measuring and weighing, with a drafter whose fit answers to its data."""

import itertools

import numpy as np
import pytest

from lm_eval_specfair.mixtures import next_shares
from lm_eval_specfair.mixtures.mixture_file import MixtureFile, read_mixture
from lm_eval_specfair.training.weighting import RULES, RuleEntry, s_cdf

from support.synthetic_records import simulated, write_folder

# How hard each group is: its misfit falls with its share by a power law, as losses do with data.
HARDNESS = {"en": 0.13, "de": 0.16, "hi": 0.26, "sw": 0.3, "th": 0.36}
NATURAL = {"en": 0.7, "de": 0.2, "hi": 0.06, "sw": 0.03, "th": 0.01}
POWER = 0.25


def overlaps_of(shares):
    return {
        name: float(np.clip(1 - hard * (0.2 / max(shares[name], 1e-4)) ** POWER, 0.02, 0.98))
        for name, hard in HARDNESS.items()
    }


def rounds(folder, weighting, number=9):
    """Shares and true overlaps after each round; measured with noise, as audits are."""
    generator = np.random.default_rng(3)
    shares, history = dict(NATURAL), []
    path = folder / "mixture0.json"
    path.write_text(MixtureFile(group_by="language", shares=shares).to_json())
    history.append((shares, overlaps_of(shares)))
    for turn in range(1, number + 1):
        records = [
            simulated(f"xnli_{name}", document, overlap, generator)
            for name, overlap in history[-1][1].items()
            for document in range(12)
        ]
        run = write_folder(folder / f"run{turn}", records)
        mixture = next_shares.build_mixture([run], weighting=weighting, former=read_mixture(path))
        path = folder / f"mixture{turn}.json"
        path.write_text(mixture.file.to_json())
        shares = dict(mixture.shares)
        history.append((shares, overlaps_of(shares)))
    return history


def worst(overlaps):
    return min(overlaps.values())


def helps(history):
    """Whether the worst group ends better served than it began, and shares have settled."""
    moved = sum(abs(history[-1][0][name] - history[-2][0][name]) for name in NATURAL) / 2
    return worst(history[-1][1]) > worst(history[0][1]) + 0.1, moved < next_shares.SETTLED


@pytest.mark.parametrize("weighting", ["s-cdf", "s-cdf:signal=kl,floor=0.2", "dro:rate=2"])
def test_rounds_bring_the_worst_group_up_and_settle(tmp_path, weighting):
    history = rounds(tmp_path, weighting, number=14 if "dro" in weighting else 9)
    assert helps(history) == (True, True), [worst(overlaps) for _, overlaps in history]
    # From the first round on, the worst group is never as badly served as it was.
    assert min(worst(overlaps) for _, overlaps in history[1:]) > worst(history[0][1]) + 0.05


def test_weights_turned_round_are_noticed(tmp_path, monkeypatch):
    turned = RuleEntry(lambda groups: 1 / (1e-3 + s_cdf.shift(groups)), {"floor": 0.0})
    monkeypatch.setitem(RULES, "s-cdf", turned)
    history = rounds(tmp_path, "s-cdf")
    assert not helps(history)[0]
    assert worst(history[-1][1]) < worst(history[0][1])


def test_by_the_last_round_alone_shares_swing(tmp_path):
    """Why the misfit is a mean over rounds: without it, the step is too long for easy learners."""
    steady, hasty = (
        rounds(tmp_path / name, f"s-cdf:smoothing={beta}")
        for name, beta in (("steady", 0.5), ("hasty", 0.0))
        if (tmp_path / name).mkdir() is None
    )

    def moves(history):
        changes = [
            sum(abs(now[name] - then[name]) for name in NATURAL) / 2
            for (then, _), (now, _) in itertools.pairwise(history[3:])
        ]
        return float(np.mean(changes))

    assert moves(steady) < moves(hasty) / 2
