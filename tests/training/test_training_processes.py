"""Training over several processes and through kills: the weights of one that nothing disturbs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.job import train_drafter

from support.training_runs import job, without_seconds

TESTS = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from support.training_runs import job, pair
from lm_eval_specfair.training.job import train_drafter
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


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharding_the_drafter_is_refused_in_a_line_that_says_what_to_use(
    tmp_path, monkeypatch, kind
):
    made = job(tmp_path / "out")
    if kind == "FSDP":  # on a CPU accelerate replicates without a word
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
    else:
        monkeypatch.setattr(Accelerator, "distributed_type", DistributedType[kind])
    message = rf"\(DDP\), got {kind}: .*--target-device-map auto, .*--teacher-cache"
    with pytest.raises(ConfigError, match=message):
        train_drafter(made)
    assert not (tmp_path / "out").exists()
    job(tmp_path)  # accelerate's state is fresh for others
