"""`bisenetv2 get` against a server on loopback: whole, cut, resumed, other bytes, a page."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

from bisenetv2_ros.cli import get as get_verb
from bisenetv2_ros.cli import main as cli
from bisenetv2_ros.files import download as downloads
from bisenetv2_ros.files.download import DownloadError, download

CONTENT = bytes(range(256)) * 4000  # about a megabyte
HASH = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path, with the faults that are set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cuts: list[int] = []  # bytes after which each connection breaks off
        self.ranges = True  # whether parts are given
        self.status = 200
        self.kind = "application/octet-stream"
        self.length = True  # whether it is told
        self.asked: list[str] = []  # the range of each request
        self.url = f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "")
        server.asked.append(wanted)
        tag = f'"{hashlib.sha256(server.content).hexdigest()[:8]}"'
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if server.status != 200:
            self.send_error(server.status)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        self.send_header("Content-Type", server.kind)
        self.send_header("ETag", tag)
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[:cut])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.05,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_a_whole_file_is_loaded_once(server, tmp_path):
    told: list[tuple[int, int]] = []
    path = tmp_path / "cache" / "weights.pth"
    assert download(server.url, path, progress=lambda *t: told.append(t)) == HASH
    assert path.read_bytes() == CONTENT and told[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(p.name for p in path.parent.iterdir()) == ["weights.pth", "weights.pth.sha256"]
    assert download(server.url, path) == HASH
    assert server.asked == [""], "loaded once"
    path.write_bytes(b"damaged")
    assert download(server.url, path) == HASH and path.read_bytes() == CONTENT


def test_a_download_goes_on_where_it_broke_off(server, tmp_path):
    server.cuts = [300_000, 200_000, 100_000]
    path = tmp_path / "weights.pth"
    assert download(server.url, path) == HASH
    assert server.asked == ["", "bytes=300000-", "bytes=500000-", "bytes=600000-"]
    assert path.read_bytes() == CONTENT


def test_what_has_come_is_kept_for_the_next_time(server, tmp_path):
    server.cuts = [400_000, *[0] * 20]
    path = tmp_path / "weights.pth"
    with pytest.raises(
        DownloadError, match=r"400000 bytes have come and are kept in .*\.part, run"
    ):
        download(server.url, path)
    assert not path.exists()
    server.cuts = []
    asked = len(server.asked)
    assert download(server.url, path) == HASH
    assert server.asked[asked:] == ["bytes=400000-"]


def test_a_server_without_parts_begins_anew(server, tmp_path):
    server.ranges = False
    server.cuts = [400_000]
    assert download(server.url, tmp_path / "weights.pth") == HASH
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_file_that_changed_in_between_is_loaded_anew(server, tmp_path):
    server.cuts = [400_000, *[0] * 20]
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "weights.pth")
    server.cuts, server.content = [], CONTENT[::-1]
    assert (
        download(server.url, tmp_path / "weights.pth") == hashlib.sha256(server.content).hexdigest()
    )


def test_without_a_length(server, tmp_path):
    server.length = False
    assert download(server.url, tmp_path / "weights.pth") == HASH


def test_the_hash_is_demanded(server, tmp_path):
    path = tmp_path / "weights.pth"
    assert download(server.url, path, HASH[:8].upper()) == HASH
    other = tmp_path / "other.pth"
    with pytest.raises(DownloadError, match=rf"SHA-256 is {HASH}, expected 0123abcd$"):
        download(server.url, other, "0123abcd")
    assert not list(tmp_path.glob("other.pth*[!n]")), "nothing wrong is left"


def test_the_hash_of_the_first_time_is_compared(server, tmp_path):
    path = tmp_path / "weights.pth"
    download(server.url, path)
    path.unlink()
    server.content = CONTENT + b"!"
    changed = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(
        DownloadError, match=rf"expected {HASH} as the last time .*--sha256 {changed}"
    ):
        download(server.url, path)
    assert not path.exists()
    assert download(server.url, path, changed) == changed


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
def test_a_page_instead_is_named(server, tmp_path, kind):
    server.content, server.kind = b"\n<!DOCTYPE html><title>Sign in</title>", kind
    with pytest.raises(DownloadError, match="a web page came, expected a file"):
        download(server.url, tmp_path / "weights.pth")
    assert not list(tmp_path.glob("weights.pth.part"))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_named(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=f"weights.pth: the server answers {status} "):
        download(server.url, tmp_path / "weights.pth")


def test_no_server_and_no_address(tmp_path):
    with pytest.raises(DownloadError, match="refused"):
        download("http://127.0.0.1:9/weights.pth", tmp_path / "weights.pth")
    with pytest.raises(DownloadError, match="expected an address that begins with https"):
        download("file:///etc/passwd", tmp_path / "weights.pth")


# --- the verb -------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/bisenetv2_ros/weights"


def get(*words: object) -> int:
    return cli.main(["get", *map(str, words)])


def test_from_a_server_to_model_files(server, tmp_path, cache, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from test_import_weights import Original

    from bisenetv2_ros.labels import CITYSCAPES
    from bisenetv2_ros.model_file import model_files, read_model_file

    name = "cityscapes"
    Original("conv_out.1").save(tmp_path / "w.pth")
    server.content = (tmp_path / "w.pth").read_bytes()
    found = hashlib.sha256(server.content).hexdigest()
    server.cuts = [len(server.content) // 2]
    out = tmp_path / "out"
    words = ("--url", server.url, "--size", "64x32", "--frame-count", 4, "-o", out)
    code = get(name, *words, "--sha256", found)
    printed = capsys.readouterr().out
    assert f"SHA-256 {found}" in printed and "licence: code" in printed and "source: " in printed
    for precision in ("float32", "float16"):
        info = read_model_file(out / f"out_{precision}.onnx").info
        assert info.precision == precision and info.labels == CITYSCAPES
        assert "non-commercial" in info.licence and info.dataset == "cityscapes"
    int8 = out / "out_int8.onnx"
    # random weights may be too far apart in int8: that is then said, and by the exit code
    assert (code == 0) == int8.is_file() != ("no int8: " in printed)
    assert {"float32", "float16"} <= set(model_files(out)), "the folder is a model"
    assert get(name, *words) == 2 and "is not empty" in capsys.readouterr().err


def test_mmsegmentations_hash_is_checked(server, tmp_path, cache, capsys):
    """The end of its file names is the beginning of the hash."""
    assert get("mmseg-cityscapes", "--url", server.url, "-o", tmp_path / "out") == 2
    assert f"SHA-256 is {HASH}, expected e1a2eed6" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for name, entry in get_verb._known().items():
        published = entry["url"].rpartition("-")[2].removesuffix(".pth")
        assert entry.get("sha256", published) == published, name
    mirror = server.url.replace("weights", "bisenetv2_20210903_000032-01234567")
    assert get("cityscapes", "--url", mirror, "-o", tmp_path / "out") == 2
    assert f"SHA-256 is {HASH}, expected 01234567" in capsys.readouterr().err


def test_a_page_and_a_wrong_file_are_named_by_the_verb(server, tmp_path, cache, capsys):
    server.content = b"<html>Too many requests</html>"
    assert get("cityscapes", "--url", server.url, "-o", tmp_path / "out") == 2
    assert "a web page came, expected a file" in capsys.readouterr().err
    server.content = json.dumps({"message": "Not Found"}).encode()
    assert get("cityscapes", "--url", server.url, "-o", tmp_path / "out") == 2
    assert "JSON text, expected weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not list(cache.glob("*[!.]part")) and not list(cache.glob("*.sha256"))
    assert get("cityscapes", "--sha256", "xyz", "-o", tmp_path / "out") == 2
    assert "expected hexadecimal digits" in capsys.readouterr().err
