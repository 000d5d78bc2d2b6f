r"""A gateway that sends each request to the server that serves its language best.

    specfair policy RUN --gateway gateway.json \
        --upstream 0=http://127.0.0.1:8000 --upstream 4=http://127.0.0.1:8001
    python examples/route_by_language.py gateway.json --port 8080

Clients say what language a request is in: `X-Language: uk`. Without the header, and for a language
that the table does not name, a request goes where the table's default points. Bodies, answers and
streams pass through as they are.

An example to read and to change: one thread a request, HTTP/1.0 towards clients, no retries. In a
production gateway (nginx, Envoy, LiteLLM) the same table is a map from a header to an upstream.
"""

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


def upstream(table: Mapping[str, Any], group: str | None) -> str:
    """The base URL of the server for a group."""
    entry = table["groups"].get(group or "", table["default"])
    return str(entry["base_url"]).rstrip("/")


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A client's key must not follow a redirect to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Gateway(BaseHTTPRequestHandler):
    table: Mapping[str, Any]
    opener = urllib.request.build_opener(NoRedirects)

    def do_GET(self) -> None:
        self.forward(None)

    def do_POST(self) -> None:
        self.forward(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def forward(self, body: bytes | None) -> None:
        if not self.path.startswith("/"):  # "@elsewhere" behind a host would name another one
            self.send_error(400, "expected a path")
            return
        url = upstream(self.table, self.headers.get("X-Language"))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
        request = urllib.request.Request(url + self.path, body, headers)  # noqa: S310
        try:
            answer = self.opener.open(request, timeout=600)
        except urllib.error.HTTPError as error:
            answer = error  # 429, 500: the client's to see
        except (OSError, http.client.HTTPException):
            self.send_error(502, "no answer from the server behind this gateway")
            return
        with answer:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            self.end_headers()
            while piece := answer.read1(65_536):  # a stream goes on as it comes
                self.wfile.write(piece)

    def log_message(self, format: str, *arguments: Any) -> None:
        sys.stderr.write(f"{self.headers.get('X-Language')!r} {format % arguments}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("table", type=Path, help="what specfair policy --gateway wrote, as JSON")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    Gateway.table = json.loads(arguments.table.read_text(encoding="utf-8"))
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Gateway)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
