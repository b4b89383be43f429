"""Hostile requests are refused without details, and the server keeps serving the page."""

import contextlib
import http.client
import json
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from stages.devices.browser import app
from stages.devices.browser.probe import Probe, Reach, probing
from stages.runtimes.exported import load_exported
from tests.stages.devices.browser.conftest import QUICK, make_browser

pytestmark = pytest.mark.usefixtures("no_runtime")
FAILED = b'{"result": {"error": "no"}}'


@pytest.fixture
def probe(bundle):
    with probing(load_exported(bundle), QUICK, Reach()) as served:
        yield served


def where(probe: Probe) -> tuple[str, int, str]:
    split = urlsplit(probe.address)
    return split.hostname, split.port, split.path


def ask(
    probe: Probe, path: str, method: str = "GET", body: object = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers; ``path`` starts after the token, or with a slash at root."""
    host, port, root = where(probe)
    connection = http.client.HTTPConnection(host, port, timeout=20)
    if probe.address.startswith("https:"):
        context = ssl._create_unverified_context()  # test_network.py tests the certificate
        connection = http.client.HTTPSConnection(host, port, timeout=20, context=context)
    with contextlib.closing(connection):
        target = path if path.startswith("/") else root + path
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}


def connected(probe: Probe) -> socket.socket:
    host, port, _ = where(probe)
    return socket.create_connection((host, port), timeout=20)


def received(connection: socket.socket) -> bytes:
    """Return everything received until the server closes the connection."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while block := connection.recv(4096):
            content += block
    return content


def stands(probe: Probe) -> bool:
    return ask(probe, "")[0] == 200


def begun(probe: Probe, **browser: Any) -> dict[str, Any]:
    status, body, _ = ask(probe, "runs", "POST", make_browser(**browser).model_dump_json())
    assert status == 200
    return json.loads(body)


def test_everything_that_a_page_needs_is_served_from_here(probe, bundle):
    _, page, headers = ask(probe, "")
    assert b"<!doctype html>" in page
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval';")
    assert "unsafe-inline" not in policy
    assert "unsafe-eval'" not in policy.replace("'wasm-unsafe-eval'", "")
    assert headers["referrer-policy"] == "no-referrer"
    sources = [p.read_text() for p in app.PAGE.iterdir() if p.suffix in {".html", ".js", ".css"}]
    assert not any("http://" in text or "https://" in text for text in sources)
    for path in app.PAGE.iterdir():
        assert ask(probe, path.name)[1] == path.read_bytes()
    assert ask(probe, "models/fp16.static.onnx")[1] == (bundle / "fp16.static.onnx").read_bytes()
    assert ask(probe, "golden")[1] == probe.runs.images.tobytes()
    assert json.loads(ask(probe, "about")[1])["labels"] == ["blue", "green", "red"]
    status, content, headers = ask(probe, "runtime/ort.wasm.min.mjs")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert headers["content-type"].startswith("text/javascript")
    assert content[:2] == b"\x1f\x8b"


def test_requests_without_the_token_learn_nothing(probe):
    _, _, root = where(probe)
    wrong = root[:-2] + ("A" if root[-2] != "A" else "B") + "/"
    targets = ["/", "/index.html", wrong, f"{wrong}about", f"{root[:-1]}x/", root[:-1], "//"]
    targets += ["/models/", "/favicon.ico", "/%00", f"/{'x' * 5000}", "/.git/config"]
    answers = [ask(probe, target) for target in targets]
    answers += [ask(probe, "/", method, b"x") for method in ("POST", "PUT", "DELETE", "OPTIONS")]
    assert {answer[0] for answer in answers} == {404}
    assert {answer[1] for answer in answers} == {b"not found"}
    for _, _, headers in answers:
        assert "server" not in headers
        assert "date" not in headers
        assert headers["connection"] == "close"
    assert stands(probe)


def test_only_the_files_of_the_page_are_there(probe, bundle):
    (bundle / "secret.txt").write_text("secret")
    paths = ["models/", "models/secret.txt", "models/fp32.dynamic.onnx", "models/../model.json"]
    paths += ["../../../etc/passwd", "models/..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd"]
    paths += ["models/%2fetc%2fpasswd", "runtime/", "runtime/ort.wasm.min.mjs.gz", "golden.npz"]
    paths += ["page.js/", "page.js%00", "runs", "runs/", "models//etc/passwd"]
    for path in paths:
        status, body, headers = ask(probe, path)
        assert status in {404, 405}, path
        assert body in {b"not found", b"method not allowed"}, path
        assert "server" not in headers
    assert ask(probe, "page.js", "POST", b"x")[0] == 405
    assert stands(probe)


def test_a_long_body_is_refused_before_it_is_read(probe):
    run = begun(probe)["run"]
    most, (_, _, root) = probe.runs.max_message, where(probe)
    for path, length in (("runs", 1 << 40), (f"runs/{run}/0", most + 1), ("runs", 20_000)):
        with connected(probe) as connection:
            head = f"POST {root}{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
            connection.sendall(head.encode())
            assert received(connection).startswith(b"HTTP/1.1 413 ")
    with connected(probe) as connection:  # a head is limited too
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 100_000)
        answer = received(connection)
    # Closing a connection with unread bytes may lose the answer.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    with connected(probe) as connection:  # without a stated length
        head = f"POST {root}runs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        answer = received(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")
    assert stands(probe)


def test_a_slow_body_times_out(probe, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.3)
    _, _, root = where(probe)
    with connected(probe) as connection:
        head = f"POST {root}runs HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{"
        connection.sendall(head.encode())
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"the body took too long")
    assert stands(probe)


def test_invalid_messages_are_refused_with_the_location(probe):
    run = begun(probe)["run"]
    good = make_browser().model_dump()
    cases = [
        ("runs", b"", "the body: invalid json"),
        ("runs", b"\xff\x00", "the body: invalid"),
        ("runs", b"[" * 10_000, "the body: invalid json"),
        ("runs", json.dumps(good | {"cores": "8"}).encode(), "cores: input should be a valid int"),
        ("runs", json.dumps(good | {"x" * 500: 1}).encode(), "x" * 40 + ": extra inputs"),
        ("runs", json.dumps(good).replace("0.005", "NaN").encode(), "timer_ms: "),
        (f"runs/{run}/0", b'{"result": {"threads": 1, "more": 1}}', "result."),
    ]
    for path, body, expected in cases:
        status, answer, _ = ask(probe, path, "POST", body)
        assert status == 400, path
        assert answer.decode().startswith(expected), answer
        assert len(answer) < 200
    for path in (*(f"{run}/{number}" for number in ("99", "-1", "x", "9" * 5000, "%00")), "none/0"):
        assert ask(probe, f"runs/{path}", "POST", FAILED)[:2] == (404, b"not found")
    assert stands(probe)


@pytest.mark.parametrize("https", [False, True])
def test_idle_connections_do_not_block_others(bundle, https):
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(probing(load_exported(bundle), QUICK, Reach(https=https)))
        for _ in range(200):
            stack.enter_context(connected(probe))
        start = time.monotonic()
        assert stands(probe)
        assert time.monotonic() - start < 5


def test_a_run_is_answered_again_and_reported_once(probe):
    run = begun(probe, gpu=None)
    open_tasks = [task for task in run["tasks"] if task["status"] == "planned"]
    assert {task["status"] for task in run["tasks"]} == {"planned", "skipped"}
    failed = b'{"result": {"error": "out of\\nmemory"}}'
    for task in open_tasks:
        path = f"runs/{run['run']}/{task['number']}"
        first = ask(probe, path, "POST", failed)
        assert first[0] == 200
        assert ask(probe, path, "POST", failed)[1] == first[1]
        assert json.loads(first[1])["row"]["reason"] == "out of memory"
    report = probe.wait(5)
    assert [row["status"] for row in report.rows].count("failed") == len(open_tasks) == 8
    assert len(report.rows) == len(run["tasks"]) == 10
    assert probe.wait(0.1) is None


def test_of_many_runs_the_oldest_is_dropped(probe):
    runs = [begun(probe)["run"] for _ in range(12)]
    assert ask(probe, f"runs/{runs[0]}/0", "POST", FAILED)[0] == 404
    assert ask(probe, f"runs/{runs[-1]}/0", "POST", FAILED)[0] == 200


def test_it_ends_with_clients_connected(bundle):
    with probing(load_exported(bundle), QUICK, Reach()) as probe:
        connection = connected(probe)
        start = time.monotonic()
    assert time.monotonic() - start < 10
    with connection:
        assert received(connection) == b""
    with pytest.raises(OSError, match=r"refused"):
        connected(probe)
