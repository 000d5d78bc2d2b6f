"""An audit that reached nobody does not pass for one that found nothing."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "audit.py"
GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("said", "required", "status", "words"),
    [
        (json.dumps({"dependencies": [GOOD]}), True, 0, "1 of 1 packages audited, 0 vulnerable"),
        (json.dumps({"dependencies": [GOOD, BAD]}), False, 1, "b 2: CVE-1"),
        (json.dumps({"dependencies": [GOOD, UNKNOWN]}), False, 0, "NOT AUDITED: 1 packages"),
        (json.dumps({"dependencies": [GOOD, UNKNOWN]}), True, 1, "NOT AUDITED: 1 packages"),
        ("", False, 0, "NOT AUDITED: no route"),
        ("", True, 1, "NOT AUDITED: no route"),
    ],
)
def test_the_audit_says_what_it_did_not_see(monkeypatch, capsys, said, required, status, words):
    done = subprocess.CompletedProcess([], 0, stdout=said, stderr="trace\nno route\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr("sys.argv", ["audit.py", *(["--required"] if required else [])])
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.main() == status
    assert words in capsys.readouterr().out
