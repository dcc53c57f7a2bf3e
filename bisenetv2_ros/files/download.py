"""Downloads that resume after an interruption, and are verified before they are kept.

Beside a file PATH there is `PATH.part` while it is incomplete, and `PATH.sha256` with its hash,
which is compared next time. Knows nothing of the files' contents.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bisenetv2_ros import __version__

TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 4  # connections without any progress before giving up
PAUSE = 1.0  # seconds between attempts
CHUNK = 1 << 18
MAX_BYTES = 1 << 32

Progress = Callable[[int, int], None]  # bytes received, bytes in total (0 = unknown)
_BROKEN = (OSError, http.client.HTTPException)


class DownloadError(RuntimeError):
    """The file was not received or is not the expected one; the message names the address."""


def download(
    url: str, path: Path, sha256: str = "", progress: Progress = lambda done, total: None
) -> str:
    """Download an address to `path`; returns its SHA-256.

    An existing file with the recorded hash is not downloaded again.

    Args:
        url: http or https.
        path: of the file; its folder is created.
        sha256: expected, or its first digits; '' accepts any on the first download, later the same.
        progress: called for every part received.

    Raises:
        DownloadError: if there is no answer, the connection broke (the part is kept and continued
            next time), it is a web page, or the hash is not the expected or recorded one.
    """
    if urllib.parse.urlparse(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: expected an address that begins with https:// or http://")
    sha256 = sha256.lower()
    record = path.with_name(f"{path.name}.sha256")
    kept = record.read_text(encoding="ascii").split()[0] if record.is_file() else ""
    if path.is_file():
        present = file_hash(path)
        if present == kept and present.startswith(sha256):
            return present
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _receive(url, part, progress)
    with part.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        part.unlink()
        raise DownloadError(f"{url}: a web page came, expected a file")
    received = file_hash(part)
    expected = sha256 or kept
    if not received.startswith(expected):
        part.unlink()
        raise DownloadError(
            f"{url}: SHA-256 is {received}, expected {expected}"
            + ("" if sha256 else f" as the last time ({record}); --sha256 {received} accepts it")
        )
    part.replace(path)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)
    record.write_text(f"{received}  {path.name}\n", encoding="ascii")
    return received


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _receive(url: str, part: Path, progress: Progress) -> None:
    """Complete `part`, over several connections if they break after some progress."""
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _connect(url, part, before, progress):
                return
            problem = "broken off"
        except urllib.error.HTTPError as error:
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
        except _BROKEN as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        there = part.stat().st_size if part.is_file() else 0
        failures = 0 if there > before else failures + 1
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"{url}: {problem}; {there} bytes have come and are kept in {part}, run it again "
                "to go on"
            )
        time.sleep(PAUSE if failures else 0)


def _connect(url: str, part: Path, there: int, progress: Progress) -> bool:
    """Download what is missing in one connection; returns whether the file is complete."""
    mark = part.with_name(f"{part.name}.json")  # the version of the file that the part is of
    headers = {"User-Agent": f"bisenetv2_ros/{__version__}", "Accept-Encoding": "identity"}
    version = _version(mark, url) if there else ""
    if version:
        headers |= {"Range": f"bytes={there}-", "If-Range": version}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # longer than the file
        return False
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {there}-"
        )
        if response.status == 206 and not resumed:
            raise http.client.HTTPException("the server sends another part than was asked for")
        there = there if resumed else 0
        length = int(response.headers.get("Content-Length") or 0)
        total = there + length if length else 0
        if total > MAX_BYTES:
            raise DownloadError(f"{url}: {total} bytes, expected at most {MAX_BYTES}")
        newest = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        mark.write_text(json.dumps({"url": url, "version": newest}), encoding="utf-8")
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                there += len(chunk)
                if there > MAX_BYTES:
                    raise DownloadError(f"{url}: more than {MAX_BYTES} bytes")
                progress(there, total)
    return not total or there >= total


def _version(mark: Path, url: str) -> str:
    try:
        content = json.loads(mark.read_text(encoding="utf-8"))
        return str(content["version"]) if content["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
