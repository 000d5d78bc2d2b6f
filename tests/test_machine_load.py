"""The load of a machine: what others take of it is seen, what this process takes is not."""

import os
import subprocess
import sys
import time
from unittest import mock

import pytest

from lm_eval_specfair import machine_load
from lm_eval_specfair.machine_load import MachineLoad, is_busy, load_sentence
from lm_eval_specfair.reporting.report.build_report import build_summary, render
from lm_eval_specfair.reporting.report.headline import headline

from support.synthetic_records import PAIRED, generation, write_folder


def looked(busy, own, *, seconds=10.0):
    """What is said of a time in which all CPUs, and own processes, were busy for so long."""
    clocks = [0.0, seconds]
    spent = [(100.0, 7.0), (100.0 + busy, 7.0 + own)]
    with (
        mock.patch.object(machine_load.time, "monotonic", side_effect=clocks),
        mock.patch.object(MachineLoad, "_spent_now", side_effect=spent),
        mock.patch.object(machine_load.os, "cpu_count", return_value=4),
    ):
        return MachineLoad().to_json()


def test_others_are_what_all_took_less_ones_own():
    load = looked(busy=25.0, own=20.0)

    assert (load["cpus"], load["others_mean_cpus"], load["others_most_cpus"]) == (4, 0.5, 0.5)
    assert is_busy(load)
    assert not is_busy(looked(busy=21.0, own=20.0))
    assert looked(busy=19.9, own=20.0)["others_mean_cpus"] == 0.0


def test_what_cannot_be_known_is_null_and_is_not_called_busy():
    with (
        mock.patch.object(MachineLoad, "_spent_now", return_value=None),
        mock.patch.object(machine_load.os, "getloadavg", side_effect=OSError),
    ):
        load = MachineLoad().to_json()

    assert load["others_mean_cpus"] is load["load_before"] is load["load_after"] is None
    assert not is_busy(load)
    assert load_sentence(load, "run") == load_sentence(None, "run") == ""
    assert not is_busy({"cpus": "many", "others_mean_cpus": []})


def test_children_are_ones_own():
    load = MachineLoad()
    before = load._spent_now()
    if before is None:
        pytest.skip("the system does not tell")
    code = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = load._spent_now()

    assert after[1] - before[1] >= 0.4
    assert after[0] >= before[0]
    assert os.cpu_count()


def test_a_look_is_taken_every_few_seconds_only():
    load = MachineLoad()
    with mock.patch.object(MachineLoad, "_look") as looks:
        for _ in range(1_000):
            load.look()
        assert not looks.called
        load._last = time.monotonic() - 6
        load.look()
    assert looks.call_count == 1


def test_a_report_warns_of_a_busy_machine(tmp_path):
    records = [generation("specfair_demo_sw", i, **PAIRED) for i in range(8)]
    load = {"cpus": 2, "others_mean_cpus": 1.25, "others_most_cpus": 1.75}
    busy = build_summary([write_folder(tmp_path / "busy", records, load=load)])
    quiet = build_summary(
        [write_folder(tmp_path / "quiet", records, load=load | {"others_mean_cpus": 0.04})]
    )
    unknown = build_summary([write_folder(tmp_path / "unknown", records)])

    sentence = "ran, other processes took 1.2 of 2 CPUs, 1.8 at most: the machine was busy"
    assert any(sentence in each for each in headline(busy))
    assert sentence in " ".join(render(busy, "table").split())
    assert "took 0.0 of 2 CPUs" in " ".join(render(quiet, "table").split())
    assert not any("CPUs" in each for each in headline(quiet))
    assert "CPUs" not in render(unknown, "table")
