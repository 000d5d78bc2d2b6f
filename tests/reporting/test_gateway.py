"""A policy as a table for gateways, and the example that routes by it."""

import csv
import importlib.util
import io
import json
import socket
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from msgspec import structs

from lm_eval_specfair.api import policy as policy_of
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records
from lm_eval_specfair.reporting.policy.build_policy import build_policy
from lm_eval_specfair.reporting.policy.gateway_table import Upstream, gateway_table

from support.draft_lengths import record_of
from support.synthetic_records import write_folder

ROOT = Path(__file__).parents[2]
COSTS = (0.1, 1.0, 0.0)
SERVERS = {0: "http://plain:8000", 4: "http://drafting:8000"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """German, whose drafts are kept, Hebrew, whose are not, and French, best with two of them."""
    generator, records = np.random.default_rng(0), []
    for group, rate in {"de": 0.9, "he": 0.03, "fr": 0.55}.items():
        for doc_id in range(30):
            record = record_of(generator.uniform(size=60) < rate, 4)
            records.append(
                structs.replace(
                    record,
                    request_id=f"{group}/{doc_id}",
                    task=f"demo_{group}",
                    doc_id=doc_id,
                    group_fields={"language": group},
                )
            )
    return write_folder(tmp_path_factory.mktemp("gateway") / "run", records)


def test_only_the_lengths_that_servers_run_with_are_chosen(run):
    free = build_policy([run], costs=COSTS)
    assert free.groups["fr"] in (1, 2, 3)
    served = build_policy([run], costs=COSTS, served={0, 4})
    assert served.groups["he"] == 0
    assert served.groups["de"] == 4
    # French by hand: plain decoding costs a step a token.
    french = [each for each in read_records(run) if each.task == "demo_fr"]
    tokens = sum(each.num_generated_tokens for each in french)
    cost = sum(each.num_spec_steps + 0.1 * each.num_draft_tokens for each in french)
    assert served.choices["fr"].best == (4 if tokens / cost > 1 else 0)
    assert served.choices["fr"].expected.current_speedup.value == pytest.approx(tokens / cost)
    assert served.choices["fr"].expected.chosen_speedup.value == pytest.approx(
        max(1.0, tokens / cost)
    )
    # Without a restriction nothing changes.
    assert build_policy([run], costs=COSTS, served=range(5)).groups == free.groups
    with pytest.raises(ConfigError, match="a server with the 4 drafted tokens"):
        build_policy([run], costs=COSTS, served={0, 2})
    with pytest.raises(ConfigError, match=r"lie in 0 \.\.\. 64"):
        build_policy([run], costs=COSTS, served={4, 500})


def test_every_form_of_the_table_says_the_same(run):
    policy = build_policy([run], costs=COSTS, served=SERVERS)
    table = json.loads(gateway_table(policy, Path("t.json"), SERVERS))
    assert yaml.safe_load(gateway_table(policy, Path("t.yaml"), SERVERS)) == table
    assert table["group_by"] == "language"
    assert table["default"] == {
        "speculation": "on",
        "num_speculative_tokens": 4,
        "base_url": "http://drafting:8000",
    }
    hebrew = table["groups"]["he"]
    assert (hebrew["speculation"], hebrew["base_url"]) == ("off", "http://plain:8000")
    assert 0 < hebrew["expected_gain_low"] < hebrew["expected_gain"]
    assert table["groups"]["de"]["expected_gain"] is None  # keeps its length
    assert {name: each["num_speculative_tokens"] for name, each in table["groups"].items()} == (
        policy.groups
    )
    rows = list(csv.DictReader(io.StringIO(gateway_table(policy, Path("t.CSV"), SERVERS))))
    assert rows[-1]["group"] == "*"
    assert {
        row["group"]: (row["speculation"], row["base_url"], int(row["num_speculative_tokens"]))
        for row in rows[:-1]
    } == {
        name: (each["speculation"], each["base_url"], each["num_speculative_tokens"])
        for name, each in table["groups"].items()
    }
    without = json.loads(gateway_table(policy, Path("t.json")))
    assert without["default"]["base_url"] is None


def test_the_verb_writes_the_table_and_refuses_what_is_none(run, tmp_path, capsys):
    file = tmp_path / "gateway.yaml"
    command = ["policy", str(run), "--costs", "0.1,1,0", "--gateway", str(file)]
    servers = ["--upstream", f"0={SERVERS[0]}", "--upstream", f"4={SERVERS[4]}"]
    assert main([*command, *servers]) == 0
    assert "lengths that are served: 0, 4" in " ".join(capsys.readouterr().out.split())
    found = policy_of(run, costs=COSTS, upstreams=SERVERS, gateway=tmp_path / "too.yaml")
    assert (tmp_path / "too.yaml").read_text("utf-8") == file.read_text("utf-8")
    assert found.groups["he"] == 0

    for wrong, reason in (
        ([*command[:-1], str(tmp_path / "table.toml")], "ends in .csv, .json, .yaml, .yml"),
        ([*command, "--upstream", "plain"], "expected LENGTH=URL"),
        ([*command, "--upstream", "4=http://a:b@host"], "holds a user or a password"),
        ([*command, "--upstream", "4=http://a", "--upstream", "4=http://b"], "two servers"),
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
        assert "a:b" not in error
    with pytest.raises(ConfigError, match="expected LENGTH=URL"):
        Upstream.read("4=file:///etc/passwd")


class Fake(BaseHTTPRequestHandler):
    """Says who it is, what it was asked and with what key; refuses every body `429`."""

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status = {"429": 429, "redirect": 307}.get(asked, 200)
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        key = self.headers.get("Authorization")
        self.wfile.write(f"{self.server.name} {self.path} {asked} {key}".encode())

    def log_message(self, *_):
        pass


def serving(handler, name=""):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.name = name
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def test_the_example_sends_requests_to_the_server_of_their_language(run):
    spec = importlib.util.spec_from_file_location("r", ROOT / "examples" / "route_by_language.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    servers = {length: serving(Fake, f"drafts {length}") for length in SERVERS}
    urls = {length: url for length, (_, url) in servers.items()}
    policy = build_policy([run], costs=COSTS, served=urls)
    table = json.loads(gateway_table(policy, Path("t.json"), urls))
    handler = type("Quiet", (example.Gateway,), {"table": table, "log_message": Fake.log_message})
    gateway, url = serving(handler)

    def ask(language, body="hello"):
        headers = {"Authorization": "Bearer k"} | ({"X-Language": language} if language else {})
        request = urllib.request.Request(f"{url}/v1/x?y=1", data=body.encode(), headers=headers)
        try:
            with example.Gateway.opener.open(request, timeout=10) as came:
                return came.status, came.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        assert ask("he") == (200, "drafts 0 /v1/x?y=1 hello Bearer k")
        assert ask("de")[1].startswith("drafts 4 ")
        assert ask(None)[1] == ask("sw")[1] == ask("de")[1]  # the default
        assert ask("he", "429") == (429, "drafts 0 /v1/x?y=1 429 Bearer k")
        assert ask("he", "redirect")[0] == 307  # passed on, not followed
        with socket.create_connection(("127.0.0.1", gateway.server_port)) as line:
            line.sendall(b"GET @127.0.0.1:1/ HTTP/1.0\r\n\r\n")
            assert b" 400 " in line.recv(4_096)
        servers[0][0].shutdown()
        servers[0][0].server_close()
        assert ask("he")[0] == 502
    finally:
        for server in (gateway, servers[4][0]):
            server.shutdown()
            server.server_close()
