"""The live page's server answers its own page and nobody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.testclient import TestClient

from attnviz import InputError, Pyramid
from attnviz.attention.patterns import Causal
from attnviz.pages.description import PageLayer
from attnviz.pages.html import LIVE_POLICY
from attnviz.pages.server import HEADERS, HOST, application, listen
from attnviz.pages.viewer import Viewer
from tests.cases import small
from tests.pages.test_html import Elements

TOKEN, PORT = "the-token", 8765
ORIGIN = f"http://{HOST}:{PORT}"
TILE = "tile/0/1/1/0/1/max"


def layer() -> PageLayer:
    return PageLayer("7", small(batch=1, tokens=300, global_positions=(0, 3)).item(), Causal(), (0, 2))


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    """A client of the server's root: paths begin with the token."""
    app = application(Viewer([layer()], "a </script> b"), token=TOKEN, port=PORT)
    with TestClient(app, base_url=ORIGIN, follow_redirects=False) as client:
        yield client


def floats(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<f4")


def test_the_page_is_one_document_that_asks_its_own_server_alone(server):
    answer = server.get(f"/{TOKEN}/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not any({"src", "href"} & set(attributes) for _, attributes in Elements(answer.text).tags)
    (described,) = re.findall(r'id="attnviz-run">(.*?)</script>', answer.text)
    described = json.loads(described)
    assert described == server.get(f"/{TOKEN}/run.json").json()
    assert (described["mode"], described["source"]) == ("live", "a </script> b")
    assert described["layers"][0]["label"] == "7"
    assert described["layers"][0]["head_labels"] == [0, 2]
    assert "q" not in described["layers"][0]


def test_an_address_without_its_last_slash_leads_there(server):
    answer = server.get(f"/{TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (307, f"/{TOKEN}/")


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("reduce", ["max", "mass"])
def test_tiles_are_the_pyramids(server, level, reduce):
    answer = server.get(f"/{TOKEN}/tile/0/1/{level}/0/0/{reduce}")
    assert answer.headers["content-type"] == "application/octet-stream"
    expected = Pyramid(layer().attention).tile(2, level, 0, 0, reduce=reduce)
    np.testing.assert_array_equal(floats(answer.content).reshape(256, 256), expected)


def test_rectangles_vectors_and_thumbnails(server):
    pyramid = Pyramid(layer().attention)
    for values in ("weights", "logits"):
        found = floats(server.get(f"/{TOKEN}/{values}/0/0/10/14/2/12").content).reshape(4, 10)
        np.testing.assert_array_equal(found, pyramid.rectangle(0, range(10, 14), range(2, 12), values=values))
    item = layer().item
    found = floats(server.get(f"/{TOKEN}/vectors/0/1/5/6").content)
    np.testing.assert_array_equal(found, np.concatenate([item.query(2)[5], item.key(2)[6]]))
    found = floats(server.get(f"/{TOKEN}/vectors/0/1/5/6,299,0").content)
    np.testing.assert_array_equal(found, np.concatenate([item.query(2)[5], *item.key(2)[[6, 299, 0]]]))
    small_map = server.get(f"/{TOKEN}/thumbnail/0/1").content
    assert np.frombuffer(small_map[:12], "<u4").tolist() == [64, 64, 300]  # the last: of how many queries
    assert np.nanmax(floats(small_map[12:])) == np.nanmax(pyramid.prepare(2).max)
    assert len(small_map) == 12 + 4 * 64 * 64


def test_whole_rows_columns_and_what_keys_receive(server):
    whole = Pyramid(layer().attention).rectangle(0, range(300), range(300))
    np.testing.assert_allclose(floats(server.get(f"/{TOKEN}/row/0/0/299").content), whole[299], rtol=1e-5)
    np.testing.assert_allclose(floats(server.get(f"/{TOKEN}/column/0/0/7").content), whole[:, 7], rtol=1e-5)
    received, _, largest = np.split(floats(server.get(f"/{TOKEN}/sides/0/0").content), [300, 600])
    np.testing.assert_allclose(received, np.nanmean(whole, axis=0), rtol=1e-5)
    np.testing.assert_allclose(largest, np.nanmax(whole, axis=1), rtol=1e-5)
    assert server.get(f"/{TOKEN}/pass/sides/0/0").json() == {"rows": 300, "done": 300}
    assert server.get(f"/{TOKEN}/alive").json() == {"changed": None}


def test_the_progress_of_a_pass(server):
    server.get(f"/{TOKEN}/{TILE}")
    assert server.get(f"/{TOKEN}/pass/map/0/1").json() == {"rows": 300, "done": 300}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("tile/0/0/0/0/1/max", "tile (0, 1) is outside level 0"),
        ("tile/0/0/2/0/0/max", "level 2 is out of range"),
        ("tile/1/0/0/0/0/max", "layer 1 is out of range"),
        ("tile/0/2/0/0/0/max", "head 2 is out of range"),
        ("tile/0/0/0/0/0/mean", "'mean' is not one of max, mass"),
        ("tile/0/0/0/-1/0/max", "row '-1' is not a number"),
        ("tile/0/0/0/1.0/0/max", "row '1.0' is not a number"),
        ("tile/0/0/0/٣/0/max", "row '٣' is not a number"),
        ("tile/0/0/0/0/" + "9" * 6000 + "/max", "column '99999999999999999999' is not a number"),
        ("tile/0/0/0/0/999999999999999/max", "is outside level 0"),
        ("tile/0/0/0/0/max", "there is nothing here"),
        ("pass/map/0/2", "head 2 is out of range"),
        ("pass/sides/9/0", "layer 9 is out of range"),
        ("pass/tiles/0/0", "'tiles' is not one of map, sides"),
        ("row/0/0/300", "query 300 is out of range"),
        ("column/0/0/300", "key 300 is out of range"),
        ("weights/0/0/0/301/0/1", "queries 0 to 301 are not a part of 0 to 300"),
        ("weights/0/0/5/5/0/1", "queries 5 to 5"),
        ("logits/0/0/0/1/9/2", "keys 9 to 2"),
        ("scores/0/0/0/1/0/1", "there is nothing here"),
        ("vectors/0/0/300/0", "query 300 is out of range"),
        ("vectors/0/0/3/1,300", "key 300 is out of range"),
        ("vectors/0/0/3/1,,2", "keys '' is not a number"),
        ("thumbnail/0/x", "head 'x' is not a number"),
        ("attnviz.js", "there is nothing here"),
        ("run.json/", "there is nothing here"),
        ("%2e%2e/%2e%2e/%2e%2e/etc/passwd", "there is nothing here"),
        ("..%2f..%2fetc%2fpasswd", "there is nothing here"),
        ("tile/0/0/0/0/0/%2fetc%2fpasswd", "there is nothing here"),
        ("%00", "there is nothing here"),
    ],
)
def test_what_is_not_there_is_one_line_of_json(server, path, says):
    answer = server.get(f"/{TOKEN}/{path}")
    assert answer.status_code == 404
    (error,) = answer.json().values()
    assert says in error
    assert "\n" not in error


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_get_is_answered(server, method):
    answer = server.request(method, f"/{TOKEN}/run.json")
    assert (answer.status_code, answer.json()) == (405, {"error": "only GET is answered"})


@pytest.mark.parametrize(
    "path",
    ["/", "/run.json", "//", "/wrong/", "/the-toke/", "/the-token2/run.json", "/THE-TOKEN/", "/é/", f"/x/{TOKEN}/"],
)
def test_without_the_token_there_is_nothing(server, path):
    answer = server.get(ORIGIN + path)
    assert answer.status_code == 403
    assert "token" in answer.json()["error"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        HOST,
        "localhost",
        f"{HOST}:80",
        f"{HOST}:{PORT}.evil.example",
        "",
        f"[::1]:{PORT}",
        f"0.0.0.0:{PORT}",
        f"localhost.:{PORT}",
    ],
)
def test_another_host_is_refused(server, host):
    for path in (f"/{TOKEN}/", f"/{TOKEN}/run.json", f"/{TOKEN}/{TILE}"):
        answer = server.get(path, headers={"host": host})
        assert answer.status_code == 403
        assert "127.0.0.1 and localhost alone" in answer.json()["error"]


def test_two_hosts_are_refused(server):
    answer = server.get(f"/{TOKEN}/", headers=[("host", f"{HOST}:{PORT}"), ("host", "evil.example")])
    assert answer.status_code == 403


@pytest.mark.parametrize("host", [f"{HOST}:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}"])
def test_this_host_is_served_by_both_its_names(server, host):
    assert server.get(f"/{TOKEN}/run.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        f"https://{HOST}:{PORT}",
        f"http://{HOST}:1",
        f"http://{HOST}",
        f"{ORIGIN}.evil.example",
    ],
)
def test_another_origin_is_refused(server, origin):
    answer = server.get(f"/{TOKEN}/{TILE}", headers={"origin": origin})
    assert answer.status_code == 403
    assert "its own pages" in answer.json()["error"]
    assert "access-control-allow-origin" not in answer.headers


def test_the_origin_of_the_page_is_answered(server):
    assert server.get(f"/{TOKEN}/{TILE}", headers={"origin": ORIGIN}).status_code == 200


@pytest.mark.parametrize("path", [f"/{TOKEN}/", f"/{TOKEN}/{TILE}", f"/{TOKEN}/nothing", "/wrong/", f"/{TOKEN}"])
def test_every_answer_carries_the_headers_of_safety(server, path):
    answer = server.get(path)
    assert HEADERS.items() <= {name: answer.headers.get(name) for name in HEADERS}.items()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(LIVE_POLICY)
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"


def test_what_the_engine_refuses_is_one_line():
    inputs = small(batch=1)
    inputs.q[0, 0, 2, 1] = float("nan")
    app = application(Viewer([PageLayer("0", inputs.item(), Causal(), (0,))], "x"), token=TOKEN, port=PORT)
    with TestClient(app, base_url=ORIGIN) as client:
        answer = client.get(f"/{TOKEN}/tile/0/0/0/0/0/max")
    assert answer.status_code == 422
    assert "q has 1 value that is NaN" in answer.json()["error"]


def test_a_defect_is_told_without_its_traceback(monkeypatch):
    viewer = Viewer([layer()], "x")
    monkeypatch.setattr(viewer, "vectors", None)
    app = application(viewer, token=TOKEN, port=PORT)
    with TestClient(app, base_url=ORIGIN, raise_server_exceptions=False) as client:
        answer = client.get(f"/{TOKEN}/vectors/0/0/0/0")
    assert (answer.status_code, answer.json()) == (500, {"error": "attnviz failed; its terminal says more"})
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1")])
def test_too_little_memory_is_told(monkeypatch, error):
    async def fail(*at: int) -> None:
        raise error

    viewer = Viewer([layer()], "x")
    monkeypatch.setattr(viewer, "vectors", fail)
    app = application(viewer, token=TOKEN, port=PORT)
    with TestClient(app, base_url=ORIGIN) as client:
        answer = client.get(f"/{TOKEN}/vectors/0/0/0/0")
    assert (answer.status_code, answer.json()["error"].partition(";")[0]) == (
        503,
        "this needs more memory than there is",
    )


def test_no_web_socket_is_opened(server):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), server.websocket_connect(f"/{TOKEN}/run.json"):
        pass


def test_it_listens_on_the_loopback_interface_alone():
    with listen(0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=rf"--port {port}: Address already in use; choose another"):
            listen(port)
