"""Each fault of the harness's proxy happens on a real socket, once in the log, and as the server saw it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.chaos import proxy as proxies
from tests.chaos.proxy import Fault, Passage, Proxy, Weather
from tests.chaos.shop import address

BODY = bytes(range(256)) * 40
CUT = (http.client.IncompleteRead, ConnectionResetError)


class Server(BaseHTTPRequestHandler):
    """Answers everything with one body."""

    seen: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.seen.append(self.command)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(proxies, "STALL_SECONDS", 0.05)
    Server.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Proxy(("127.0.0.1", server.server_port), tmp_path / "log") as proxy:
        yield proxy
    server.shutdown()
    server.server_close()


def ask(passage: Passage, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address(passage.endpoint), timeout=30)
    try:
        body = b"some" if method == "PUT" else None
        connection.request(
            method, "/bucket/key", body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def logged(path: Path) -> list[tuple[int, str | None]]:
    lines = map(json.loads, (path / "log").read_text().splitlines())
    return [(line["number"], line["fault"]) for line in lines]


def test_in_fair_weather_requests_pass_as_they_are(proxy: Proxy, tmp_path: Path) -> None:
    with Passage(proxy, "night", Weather(), seed="") as passage:
        assert [ask(passage), ask(passage, "PUT")] == [(200, BODY)] * 2
    assert (Server.seen, logged(tmp_path)) == (["GET", "PUT"], [(1, None), (2, None)])


@pytest.mark.parametrize(("fault", "status"), [("busy", 503), ("expired", 403)])
def test_a_refusal_never_reaches_the_server(proxy: Proxy, tmp_path: Path, fault: Fault, status: int) -> None:
    weather = Weather({"busy": 1.0}) if fault == "busy" else Weather(expired=range(1, 2))
    with Passage(proxy, "night", weather, seed="") as passage:
        assert ask(passage)[0] == status
    assert (Server.seen, logged(tmp_path)) == ([], [(1, fault)])


@pytest.mark.parametrize("fault", ["reset", "short"])
def test_a_body_ends_in_its_middle(proxy: Proxy, tmp_path: Path, fault: Fault) -> None:
    with Passage(proxy, "night", Weather({fault: 1.0}), seed="") as passage, pytest.raises(CUT):
        ask(passage)
    assert (Server.seen, logged(tmp_path)) == (["GET"], [(1, fault)])


@pytest.mark.parametrize(("fault", "headers"), [("lost new", {"If_None_Match": "*"}), ("lost", {})])
def test_the_answer_of_a_write_is_lost_and_the_write_is_not(
    proxy: Proxy, tmp_path: Path, fault: Fault, headers: dict[str, str]
) -> None:
    with Passage(proxy, "night", Weather({fault: 1.0}), seed="") as passage, pytest.raises(ConnectionError):
        ask(passage, "PUT", **headers)
    assert (Server.seen, logged(tmp_path)) == (["PUT"], [(1, fault)])


def test_a_stall_ends_without_an_answer(proxy: Proxy, tmp_path: Path) -> None:
    with Passage(proxy, "night", Weather({"stall": 1.0}), seed="") as passage, pytest.raises(ConnectionError):
        ask(passage)
    assert (Server.seen, logged(tmp_path)) == ([], [(1, "stall")])
