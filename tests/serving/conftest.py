"""Fake servers of the tiny pair."""

import pytest

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.serving import client
from lm_eval_specfair.serving.server_decoder import ServerDecoder

from support.fake_server import FakeServer


@pytest.fixture(autouse=True)
def short_delays(monkeypatch):
    """Retries within milliseconds."""
    monkeypatch.setattr(client, "FIRST_DELAY", 0.01)


@pytest.fixture(autouse=True)
def closed_at_the_end(monkeypatch):
    """Closes what a process that is killed, or ends with an error, would leave to its exit."""
    made: list[ServerDecoder] = []
    original = ServerDecoder.__init__

    def remembered(self, *arguments, **settings):
        original(self, *arguments, **settings)
        made.append(self)

    monkeypatch.setattr(ServerDecoder, "__init__", remembered)
    yield
    for decoder in made:
        decoder.close()


@pytest.fixture
def serve(target, near_drafter):
    """Starts fake servers, by api; all are stopped at the end."""
    running: list[FakeServer] = []

    def start(api: str = "vllm", *, drafts: bool = True, **settings) -> FakeServer:
        drafter = near_drafter if drafts else target
        length = 4 if drafts else 0
        server = FakeServer(
            api, target, drafter, byte_tokenizer(), **({"length": length} | settings)
        )
        if not drafts:
            server.counts = settings.get("counts", "none")
        running.append(server)
        return server.start()

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(scope="session")
def tokenizer_folder(pair_folder):
    return str(pair_folder / "target")
