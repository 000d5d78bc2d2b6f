"""Faults of a server, injected into a fake one: no record is lost or doubled, failures named."""

import json
import logging
import shutil
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.harness.recording.recorded_model import RecordedLM
from lm_eval_specfair.reporting.report.build_report import build_summary, render, write_report
from lm_eval_specfair.serving import client
from lm_eval_specfair.serving.client import _wish

from support.commands import OFFLINE
from support.evaluations import answers, generation, records_of, run_of

KEY = "sk-very-secret-key"


@pytest.fixture(autouse=True)
def runs_of_this_test(monkeypatch):
    monkeypatch.setattr(RecordedLM, "finished_runs", [])
    monkeypatch.setattr(RecordedLM, "failed_runs", set())


def served(server, folder, **arguments):
    return SpecFairLM(
        backend="server",
        **({"base_url": server.url, "records_dir": str(folder), "num_concurrent": 3} | arguments),
    )


def asked(number=12):
    return [generation(f"Text {n}.", n, max_gen_toks=12) for n in range(number)]


@pytest.fixture
def right(serve, tmp_path):
    """The texts of a server without faults."""
    return answers(served(serve(), tmp_path / "right"), asked())


# ------------------------------------------------------------------ what passes


@pytest.mark.parametrize("fault", [408, 429, 500, 503, "cut", "hang", "drop", "garbage", "error"])
def test_a_fault_that_passes_is_not_seen(fault, serve, tmp_path, right):
    server = serve()
    server.faults.by_number = {3: fault, 4: fault, 8: fault}

    found = answers(served(server, tmp_path / "run", timeout=0.5), asked())

    assert found == right
    records = records_of(tmp_path / "run")
    assert len(records) == 12
    assert all(record.failure is None for record in records.values())
    assert server.num_asked == 1 + 12 + 3
    assert not SpecFairLM.failed_runs


def test_a_server_that_says_when_to_come_again_is_obeyed(serve, tmp_path):
    server = serve()
    server.faults.by_number, server.faults.retry_after = {2: 429}, "1"
    began = time.monotonic()

    answers(served(server, tmp_path), asked(1))

    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("2", 2, 2),
        ("-5", 0, 0),
        ("1e9", 600, 600),
        ("soon", 0, 0),
        ("nan", 0, 600),
        (None, 0, 0),
        ("Wed, 21 Oct 2065 07:28:00 GMT", 600, 600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, least, most):
    assert least <= _wish(header) <= most


def test_delays_double_and_differ(serve, tmp_path, monkeypatch):
    delays = []

    async def noted(seconds):
        delays.append(seconds)

    server = serve()
    model = served(server, tmp_path, max_retries=6, num_concurrent=1)
    monkeypatch.setattr(client, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(client.asyncio, "sleep", noted)
    server.faults.always = 500

    with pytest.raises(ConfigError, match=r"answered 500: no \(tried 7 times\)"):
        model.generate_until(asked(1), disable_tqdm=True)

    monkeypatch.undo()
    delays = [seconds for seconds in delays if seconds > 0.1]  # the fake server sleeps as well
    for number, seconds in enumerate(delays):
        assert 0.5 <= seconds / (0.5 * 2**number) <= 1.5
    assert len(delays) == 6


def test_a_server_that_goes_away_and_comes_back(serve, tmp_path, right):
    server = serve()
    model = served(server, tmp_path / "run", max_retries=12)

    def away():
        while server.num_asked < 6:
            time.sleep(0.001)
        server.stop()
        time.sleep(0.3)
        server.start()

    thread = threading.Thread(target=away)
    thread.start()
    found = answers(model, asked())
    thread.join()

    assert found == right
    assert len(records_of(tmp_path / "run")) == 12
    assert not SpecFairLM.failed_runs


# ------------------------------------------------------------------ what does not pass


def test_a_request_that_fails_for_good_is_named_and_the_others_are_not_lost(
    serve, tmp_path, right, caplog
):
    server = serve()
    server.faults.by_number = {5: 500, 9: 400}
    model = served(server, tmp_path / "run", max_retries=0, num_concurrent=1)
    caplog.set_level(logging.WARNING)

    found = answers(model, asked())

    records = records_of(tmp_path / "run")
    failed = {name: record for name, record in records.items() if record.failure}
    assert len(records) == 12
    assert len(failed) == 2
    assert sum(one == other for one, other in zip(found, right, strict=True)) == 10
    for name, record in failed.items():
        assert f"{name}: ServedRequestError: /v1/completions answered" in caplog.text
        assert record.finish_reason is None
    assert run_of(tmp_path / "run")["totals"]["num_failed_requests"] == 2
    assert tmp_path / "run" in SpecFairLM.failed_runs  # exit status 1


@pytest.mark.parametrize("fault", [500, "cut", "hang", "garbage"])
def test_where_all_fail_the_run_ends_with_one_line_and_no_record(fault, serve, tmp_path):
    server = serve()
    model = served(server, tmp_path / "run", max_retries=1, timeout=0.5)
    server.faults.always = fault

    with pytest.raises(ConfigError, match="tried 2 times") as ended:
        model.generate_until(asked(), disable_tqdm=True)

    assert "\n" not in str(ended.value)
    assert records_of(tmp_path / "run") == {}


def test_a_server_that_stays_away_ends_the_run_which_can_be_resumed(serve, tmp_path, right, caplog):
    server = serve()
    model = served(server, tmp_path / "run", max_retries=2, num_concurrent=1)

    def away():
        while server.num_asked < 6:
            time.sleep(0.001)
        server.stop()

    thread = threading.Thread(target=away)
    thread.start()
    with pytest.raises(ConfigError, match=r"cannot be reached .*; start it"):
        answers(model, asked())
    thread.join()
    assert "resume=true in --model_args resumes there" in caplog.text
    before = records_of(tmp_path / "run")
    assert 3 <= len(before) < 12

    server.start()
    found = answers(served(server, tmp_path / "run", resume=True, num_concurrent=1), asked())

    assert found == right
    after = records_of(tmp_path / "run")
    assert len(after) == 12
    assert all(after[name] == record for name, record in before.items())


def test_another_model_in_mid_run_is_refused_there_and_on_resume(serve, tmp_path):
    server = serve()
    model = served(server, tmp_path / "run", max_retries=12, num_concurrent=1)

    def other():
        while server.num_asked < 6:
            time.sleep(0.001)
        server.stop()
        server.root = "models/another"
        time.sleep(0.2)
        server.start()

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(ConfigError, match="root was 'models/pair', is 'models/another'"):
        answers(model, asked())
    thread.join()

    before = len(records_of(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"cannot resume .*models/another"):
        served(server, tmp_path / "run", resume=True, num_concurrent=1)
    assert len(records_of(tmp_path / "run")) == before < 12


def test_another_model_that_came_unseen_is_refused_at_the_end(serve, tmp_path):
    server = serve()
    model = served(server, tmp_path / "run")
    model.generate_until(asked(), disable_tqdm=True)
    server.root = "models/another"

    with pytest.raises(ConfigError, match="serves another model"):
        model.get_model_info()

    assert run_of(tmp_path / "run")["finished"] is None


# ------------------------------------------------------------------ keys, redirects, hostile texts


def everything_in(folder):
    return "\n".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in folder.rglob("*")
        if path.is_file()
    )


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OWN_KEY"])
def test_the_key_comes_from_the_environment_and_stays_there(
    variable, serve, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv(variable, KEY)
    server = serve()
    server.faults.needs_key, server.faults.echo_key = KEY, True
    server.faults.by_number, server.faults.text = {4: 400}, f"your key is {KEY}"
    given = {} if variable == "OPENAI_API_KEY" else {"api_key_env": variable}
    caplog.set_level(logging.DEBUG)

    model = served(server, tmp_path / "run", **given)
    found = answers(model, asked())
    files = write_report(build_summary([tmp_path / "run"]), tmp_path / "run")

    assert files
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert sum(record.failure is not None for record in records_of(tmp_path / "run").values()) == 1
    for text in (everything_in(tmp_path), caplog.text, str(found), repr(model._arguments)):
        assert KEY not in text
    assert "your key is ***" in found[0] + found[-1]


def test_a_key_that_is_not_admitted(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve()
    server.faults.needs_key = "another"

    with pytest.raises(ConfigError, match=r"does not admit this key \(401\)") as refused:
        served(server, tmp_path)

    assert KEY not in str(refused.value)
    assert len(server.keys) == 1  # not tried again


def test_a_redirect_is_not_followed_with_the_key_or_without(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    thief, server = serve(), serve()
    model = served(server, tmp_path / "run")
    server.faults.redirect = f"{thief.url}/v1/completions?{KEY}"

    with pytest.raises(ConfigError, match=r"redirects to .* not followed") as refused:
        answers(model, asked())
    with pytest.raises(ConfigError, match=r"redirects to .* not followed"):
        served(server, tmp_path / "other")

    assert KEY not in str(refused.value)
    assert thief.keys == []


def test_the_key_of_another_address_is_not_sent_to_the_baseline_of_a_third(serve, tmp_path):
    server = serve()

    answers(served(server, tmp_path), asked(1))

    assert set(server.keys) == {None}  # without a key, none is sent


HOSTILE = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>\x9b31m\u202e|`$(rm)`"


def test_hostile_texts_harm_neither_terminal_nor_page(serve, tmp_path, capsys, caplog):
    server = serve(name="pair<script>alert(2)</script>\x1b[2J")
    server.faults.text = HOSTILE
    server.root = f"models/\x1b[31m{HOSTILE}"
    server.faults.by_number = {7: "error"}

    found = answers(served(server, tmp_path / "run", max_retries=0), asked())
    summary = build_summary([tmp_path / "run"])
    files = write_report(summary, tmp_path / "run")
    shown = [render(summary, form) for form in ("table", "md", "csv")]

    assert HOSTILE in found  # as data, it is what the model said
    for text in (*shown, caplog.text, capsys.readouterr().err):
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    for path in files:
        page = path.read_text(encoding="utf-8")
        assert path.suffix != ".html" or "<script>alert" not in page
        assert not set(page) & {"\x1b", "\x07", "\x9b"}
    settings = json.dumps(run_of(tmp_path / "run")["settings"], ensure_ascii=False)
    assert "\x1b" not in settings


@pytest.mark.parametrize(
    "change",
    [
        {"usage": {"prompt_tokens": 3, "completion_tokens": 2**53}},
        {"metrics": {"num_spec_tokens": 2**53}},
        {"metrics": {"per_step_drafted": [2**53] * 3, "per_step_accepted": [2**52] * 3}},
        {"metrics": {"num_draft_tokens": 2**53}},
        {"metrics": {"acceptance_histogram": [0] * 100_000}},
    ],
    ids=["tokens", "draft length", "steps", "drafts", "histogram"],
)
def test_numbers_without_measure_fill_neither_memory_nor_a_record(
    change, serve, tmp_path, monkeypatch
):
    server = serve()
    model = served(server, tmp_path, max_retries=0)
    events = server._vllm_events

    def changed(*arguments, **settings):
        *others, last = events(*arguments, **settings)
        last["metrics"]["speculative_decoding"] |= change.get("metrics", {})
        return [*others, last | {"usage": change.get("usage", last["usage"])}]

    monkeypatch.setattr(server, "_vllm_events", changed)
    if "usage" in change:
        with pytest.raises(ConfigError, match="though at most 12 were asked for"):
            answers(model, asked(3))
    else:
        answers(model, asked(3))

    # Read again, a record is held against all that its fields must say of one another.
    for record in records_of(tmp_path).values():
        assert record.num_spec_steps is None
        assert len(record.acceptance_histogram or []) < 300


# ------------------------------------------------------------------ certificates


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that no authority has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"),
            *("subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
    )
    return files


def test_certificates_are_checked(serve, tmp_path, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = serve(tls=context)

    with pytest.raises(ConfigError, match=r"is not trusted .*; name its authority") as refused:
        served(server, tmp_path / "refused")
    assert "\n" not in str(refused.value)
    answers(served(server, tmp_path / "trusted", verify=str(certificate[0])), asked(1))
    answers(served(server, tmp_path / "unchecked", verify=False), asked(1))

    for name in ("trusted", "unchecked"):
        assert len(records_of(tmp_path / name)) == 1
    with pytest.raises(ConfigError, match="must be a PEM file of certificate authorities"):
        served(server, tmp_path / "no", verify=str(Path(__file__)))


# ------------------------------------------------------------------ the command line


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_exit_status_and_words(serve, tmp_path, tokenizer_folder):
    def run(folder, **arguments):
        given = {"backend": "server", "base_url": server.url, "tokenizer": tokenizer_folder}
        given |= {"records_dir": str(tmp_path / folder), "max_retries": 0} | arguments
        command = ["run", "--tasks", "specfair_demo_en", "--limit", "3"]
        command += ["--gen_kwargs", "max_gen_toks=8", "--model_args", json.dumps(given)]
        return subprocess.run(
            [Path(sys.executable).with_name("specfair"), *command],
            capture_output=True, text=True, check=False, env=OFFLINE, timeout=250,
        )  # fmt: skip

    server = serve()
    server.faults.by_number = {server.num_asked + 3: 400}
    failed = run("failed", num_concurrent=1)
    assert failed.returncode == 1, failed.stderr
    assert "Latency by group" in failed.stdout
    assert "failed, and left out of all metrics" in failed.stderr

    server.stop()
    gone = run("gone")
    assert gone.returncode == 2
    assert "cannot be reached" in gone.stderr.strip().splitlines()[-1]
    assert "Traceback" not in gone.stderr
    assert not (tmp_path / "gone").exists()
