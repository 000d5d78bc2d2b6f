"""Training over several processes and through kills: the weights of one that nothing disturbs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.sharding import check_launch

from support import sharded_runs
from support.training_runs import job, without_seconds

TESTS = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from support.training_runs import job, pair
from lm_eval_specfair.training.run import train_drafter
train_drafter(
    job(Path({folder!r}), models=pair(torch.float64), **{settings!r}), resume={resume}
)
"""


def command(folder: Path, *, resume: bool = False, **settings) -> list[str]:
    code = _RUN.format(tests=str(TESTS), folder=str(folder), settings=settings, resume=resume)
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    settings = {"weighting": "s-cdf", "divergence": "js"}
    subprocess.run(command(tmp_path / "one", **settings), check=True)
    script = tmp_path / "run.py"
    script.write_text(command(tmp_path / "two", **settings)[-1])
    subprocess.run([*LAUNCH, script], check=True, timeout=600)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-8, atol=1e-10)
    for ours, theirs in zip(*(without_seconds(tmp_path / n) for n in ("one", "two")), strict=True):
        assert ours.keys() == theirs.keys()
        if "loss" in ours:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-8)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    settings = {"tokens": 20 * 96, "checkpoint_seconds": 0.0}
    subprocess.run(command(tmp_path / "undisturbed", **settings), check=True)
    folder = tmp_path / "killed"
    for resume in (False, True):
        enough = 5 if not resume else 12
        process = subprocess.Popen(command(folder, resume=resume, **settings))
        log, deadline = folder / "training_log.jsonl", time.monotonic() + 500
        while not log.exists() or log.read_bytes().count(b"\n") < enough:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert not (folder / "model.safetensors").exists()
    subprocess.run(command(folder, resume=True, **settings), check=True)
    names = ("model.safetensors", "train_results.json")
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    assert without_seconds(folder) == without_seconds(tmp_path / "undisturbed")


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory) -> tuple[Path, Path]:
    """The runs of `sharded_runs`, in this process and sharded over two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    script = [str(TESTS / "support" / "sharded_runs.py"), str(two)]
    subprocess.run([*LAUNCH, *script], check=True, timeout=280)
    for name in sharded_runs.RUNS:
        sharded_runs.make(one, name)
    return one, two


# Of what training changed. Matrix products in bf16 round to 1 in 256, and so do those in Muon,
# which are summed in another order where a matrix lies on two processes.
TOLERANCES = {"parts": 1e-9, "on-policy": 1e-9, "adapters": 1e-9, "half": 2e-2, "muon": 5e-2}


@pytest.mark.slow
@pytest.mark.parametrize("name", sharded_runs.RUNS)
def test_a_drafter_sharded_over_two_processes_learns_what_a_whole_one_learns(both_ways, name):
    one, two = (load_file(folder / name / "model.safetensors") for folder in both_ways)
    assert {n: (x.shape, x.dtype) for n, x in one.items()} == {
        n: (x.shape, x.dtype) for n, x in two.items()
    }
    start = sharded_runs.start(name).state_dict()
    moved = torch.cat([(one[n] - start[n]).flatten() for n in one]).norm()
    apart = torch.cat([(one[n] - two[n]).flatten() for n in one]).norm()
    assert moved > 0.01
    assert apart < TOLERANCES[name] * moved
    exact = TOLERANCES[name] < 1e-8
    # Weights are differences of what was measured, which magnify rounding.
    keys = ("loss", "probe", "weights") if exact else ("loss", "probe")
    for ours, theirs in zip(*(without_seconds(f / name) for f in both_ways), strict=True):
        for key in keys:
            expected = pytest.approx(flat(theirs.get(key)), rel=1e-8 if exact else 1e-2)
            assert flat(ours.get(key)) == expected


def flat(value) -> list[float]:
    """Numbers of a logged value, in their order."""
    if isinstance(value, dict):
        return [x for each in value.values() for x in flat(each)]
    return [] if value is None else [value]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fsdp_version": 1}, r"FSDP must be version 2, got 1; launch with .*--fsdp_version 2"),
        (
            {"fsdp_version": 2, "auto_wrap_policy": "size_based_wrap"},
            "must wrap the drafter's layers, not by size",
        ),
        (None, r"accelerate shards only over several processes.*got 1 on cpu"),
    ],
    ids=["old", "by-size", "one-process"],
)
def test_ways_to_shard_that_are_not_known_are_refused(tmp_path, monkeypatch, settings, message):
    job(tmp_path)  # accelerate's state is fresh
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    accelerator = Accelerator(cpu=True)
    if settings is not None:
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**settings)
    with pytest.raises(ConfigError, match=message):
        check_launch(accelerator)
    job(tmp_path)
