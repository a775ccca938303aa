import contextlib
import functools
import hashlib
import http.server
import io
import multiprocessing
import os
import sys
import tarfile
import threading
import time
import types
import urllib.request
import zipfile

import pytest

from data.prepare import transfer
from data.prepare.digests import read_record, record_of
from data.prepare.download import archive_fault, extract, fetch, web_page
from data.registry import KNOWN
from storage.errors import DataError

GOOD = b"the right bytes" * 1000
SHA = hashlib.sha256(GOOD).hexdigest()
MD5 = hashlib.md5(GOOD).hexdigest()
PAGES = {
    "quota.zip": b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>",
    "page.zip": b"\n<html>hello</html>",
    "wrong.zip": b"other bytes" * 10,
    "good.zip": GOOD,
    "empty.zip": b"",
}


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, hits, *args):
        self.hits = hits
        super().__init__(*args)

    def do_GET(self):
        name = self.path[1:]
        self.hits.append(name)
        if name == "half.zip":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", str(len(GOOD)))
            self.end_headers()
            self.wfile.write(GOOD[:5000])
        elif name in ("silent.zip", "trickle.zip", "headers.zip"):  # accepts, and then
            if name != "headers.zip":
                self.send_response(200)
                self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(60):
                    time.sleep(0.05)
                    if name != "silent.zip":
                        self.wfile.write(b"X")
                        self.wfile.flush()
        elif name.startswith("to?"):
            self.send_response(302)
            self.send_header("Location", name[3:])
            self.end_headers()
        elif name.partition("?")[0] in PAGES:
            name = name.partition("?")[0]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGES[name])
        else:
            self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    hits = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, hits)) as s:
        thread = threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield types.SimpleNamespace(url=f"http://127.0.0.1:{s.server_port}/", hits=hits)
        s.shutdown()


def test_next_mirror_until_the_hash_fits(server, tmp_path):
    mirrors = [server.url + n for n in ("none", "quota.zip", "half.zip", "wrong.zip", "good.zip")]
    file = fetch(mirrors, tmp_path / "deep/set.zip", sha256=SHA, bar=False)
    assert file.read_bytes() == GOOD and len(server.hits) == 5
    fetch(mirrors, file, sha256=SHA[:8], bar=False)  # there already
    assert len(server.hits) == 5
    assert sorted(p.name for p in file.parent.iterdir()) == [".set.zip.lock", "set.zip"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "HTTP 404"),
        ("quota.zip", "got an HTML page .*quota"),
        ("page.zip", "got an HTML page"),
        ("half.zip", "5000 of 15000|IncompleteRead"),
        ("wrong.zip", f"expected sha256 {SHA[:12]}.., got"),
        ("empty.zip", "expected sha256|empty"),
    ],
)
def test_what_each_failure_says(server, tmp_path, name, reason):
    file = tmp_path / "set.zip"
    with pytest.raises(DataError, match=reason) as caught:
        fetch([server.url + name], file, sha256=SHA, bar=False)
    assert str(caught.value).endswith(f"Place the file at {file}")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("set*"))


def test_without_a_hash_pages_and_cut_archives_are_still_seen(server, tmp_path):
    with pytest.raises(DataError, match="HTML page.*neither a zip nor a tar"):
        fetch(
            [server.url + "page.zip", server.url + "wrong.zip"],
            tmp_path / "a.zip",
            check=archive_fault,
            bar=False,
        )


def test_unreachable_and_file_urls(tmp_path):
    (tmp_path / "src").write_bytes(GOOD)
    mirrors = ["http://127.0.0.1:9/x", (tmp_path / "src").as_uri()]
    assert fetch(mirrors, tmp_path / "x", sha256=SHA, bar=False).read_bytes() == GOOD


def test_a_wrong_file_placed_by_hand_is_not_overwritten(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match="is there but expected sha256"):
        fetch([], tmp_path / "x.zip", sha256=SHA)
    assert (tmp_path / "x.zip").read_bytes() == b"mine"


@pytest.mark.parametrize("outcome", ["file", "quota", "none", "absent"])
def test_google_drive(tmp_path, monkeypatch, outcome):
    def download(id, output, quiet):  # noqa: A002 - gdown's own name
        assert id == "ID"
        if outcome == "quota":
            raise RuntimeError("Cannot retrieve\nToo many users have viewed")
        if outcome == "file":
            with open(output, "wb") as out:
                out.write(GOOD)
            return output
        return None

    gdown = None if outcome == "absent" else types.SimpleNamespace(download=download)
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    said = {"quota": "quota exceeded", "none": "gave no file", "absent": "gdown is not installed"}
    if outcome == "file":
        assert fetch(["drive:ID"], tmp_path / "x", bar=False).read_bytes() == GOOD
    else:
        with pytest.raises(DataError, match=said[outcome]):
            fetch(["drive:ID"], tmp_path / "x", bar=False)


def _fetch_here(url, file):
    fetch([url], file, sha256=SHA, bar=False)


def test_two_processes_download_once(server, tmp_path):
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=_fetch_here, args=(server.url + "good.zip", tmp_path / "x"))
        for _ in range(2)
    ]
    for p in both:
        p.start()
    for p in both:
        p.join()
    assert [p.exitcode for p in both] == [0, 0] and server.hits == ["good.zip"]


@pytest.mark.parametrize("name", ["silent.zip", "trickle.zip", "headers.zip"])
def test_a_server_that_sends_nothing_or_a_trickle(server, tmp_path, name, monkeypatch):
    monkeypatch.setattr(transfer, "PATIENCE", 0.4)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.4)
    began = time.monotonic()
    fetch([server.url + name, server.url + "good.zip"], tmp_path / "x", bar=False)
    assert time.monotonic() - began < 2 and (tmp_path / "x").read_bytes() == GOOD
    with pytest.raises(DataError, match="nothing came|too slow|timed out"):
        fetch([server.url + name], tmp_path / "y", bar=False)


def test_google_drive_that_sends_nothing(tmp_path, monkeypatch):
    module = types.ModuleType("gdown")
    module.download = lambda **options: time.sleep(3)  # it sets no timeout
    monkeypatch.setitem(sys.modules, "gdown", module)
    monkeypatch.setattr(transfer, "PATIENCE", 0.4)
    with pytest.raises(DataError, match="nothing came in 0.4 s"):
        fetch(["drive:abc"], tmp_path / "x", bar=False)


def test_web_page_kinds(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf<!doctype HTML>can't scan this file for viruses")
    assert "virus" in web_page(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"\x89PNG")
    assert web_page(tmp_path / "x") is None


# ---------------------------------------------------------------- digests


def test_what_is_not_pinned_is_recorded_and_compared(server, tmp_path, monkeypatch, capsys):
    file, url = tmp_path / "set.zip", f"{server.url}good.zip"
    fetch([f"{url}?key=secret"], file, bar=False)
    said = capsys.readouterr().err
    assert "not pinned" in said and SHA[:12] in said and "over http" in said
    assert record_of(file).read_text() == f"# {url}\n{SHA}  set.zip\n"  # of `sha256sum -c`
    fetch([url], file, bar=False)  # there already, as recorded
    file.unlink()
    fetch([f"{url}?key=other"], file, bar=False)
    assert capsys.readouterr().err == "" and file.read_bytes() == GOOD
    file.unlink()
    monkeypatch.setitem(PAGES, "good.zip", b"something else")
    with pytest.raises(DataError, match=f"expected sha256 {SHA[:12]}.., which set.zip.sha256 has"):
        fetch([url], file, bar=False)
    assert not file.exists() and read_record(file) == {url: SHA}
    file.write_bytes(b"yet another")
    with pytest.raises(DataError, match=r"is there but expected sha256 .*set.zip.sha256"):
        fetch([url], file, bar=False)
    record_of(file).write_bytes(b"")  # trusts nothing, as one cut short by a full disk
    with pytest.raises(DataError, match=r"set.zip.sha256 has no digest, or is damaged; remove it"):
        fetch([url], file, bar=False)


def test_another_mirror_may_pack_it_otherwise(server, tmp_path, capsys):
    file, urls = tmp_path / "set.zip", [server.url + n for n in ("none", "good.zip", "wrong.zip")]
    fetch(urls, file, bar=False)
    file.unlink()
    fetch([urls[0], urls[2]], file, bar=False)
    assert capsys.readouterr().err.count("not pinned") == 2
    assert list(read_record(file)) == urls[1:]
    fetch(urls, file, bar=False)


def test_a_file_placed_by_hand_is_recorded_too(tmp_path, capsys):
    (tmp_path / "x.zip").write_bytes(GOOD)
    fetch(["https://nowhere.invalid/x.zip"], tmp_path / "x.zip", bar=False)
    assert "not pinned" in capsys.readouterr().err
    assert read_record(tmp_path / "x.zip") == {None: SHA}


def test_pins_of_single_mirrors(server, tmp_path, capsys):
    good, other = server.url + "good.zip", server.url + "wrong.zip"
    with pytest.raises(DataError, match=f"expected md5 {MD5[:12]}.., got"):
        fetch([other], tmp_path / "a", pins={other: f"md5:{MD5}"}, bar=False)
    fetch([good], tmp_path / "a", pins={good: f"md5:{MD5.upper()}"}, bar=False)
    fetch([other, good], tmp_path / "a", pins={good: f"md5:{MD5}"}, bar=False)  # found, and right
    assert capsys.readouterr().err == "" and not record_of(tmp_path / "a").exists()
    fetch([other, good], tmp_path / "b", pins={good: f"md5:{MD5}"}, bar=False)
    assert "not pinned" in capsys.readouterr().err


def test_no_way_from_https_to_http():
    request = urllib.request.Request("https://a.example/x")
    follow = transfer._NoWayDown().redirect_request
    with pytest.raises(OSError, match="from https to http"):
        follow(request, None, 302, "", {}, "http://a.example/x")
    assert follow(request, None, 302, "", {}, "https://b.example/x").full_url[:10] == "https://b."
    plain = urllib.request.Request("http://a.example/x")
    assert follow(plain, None, 302, "", {}, "http://b.example/x") is not None


def test_redirections_are_followed(server, tmp_path):
    fetch([f"{server.url}to?/good.zip"], tmp_path / "x", sha256=SHA, bar=False)
    fetch([f"{server.url}to?/good.zip"], tmp_path / "y", bar=False)


def test_known_sets_come_over_https_and_pins_are_of_their_mirrors():
    for name, known in KNOWN.items():
        assert all(m.startswith(("https://", "drive:")) for m in known.mirrors), name
        assert known.pins.keys() <= set(known.mirrors)
        for mirror in known.mirrors:  # what is not on somebody's Drive has a published digest
            assert mirror.startswith("drive:") or mirror in known.pins or name == "mnist"


# ---------------------------------------------------------------- archives


def make_tar(file, members, mode="w"):
    with tarfile.open(file, mode) as out:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(data)
            else:
                info.linkname = data.decode()
            out.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)
    return file


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_good_archives(tmp_path, kind):
    file = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as out:
            out.writestr("./train/a/1.png", GOOD)
            out.writestr("train/empty/", b"")
    else:
        members = [
            ("./train/a/1.png", tarfile.REGTYPE, GOOD),
            ("train/empty", tarfile.DIRTYPE, b""),
        ]
        make_tar(file, members, "w" if kind == "tar" else f"w:{kind[4:]}")
    extract(file, tmp_path / "out", bar=False)
    assert (tmp_path / "out/train/a/1.png").read_bytes() == GOOD
    assert (tmp_path / "out/train/empty").is_dir()
    with pytest.raises(DataError, match="exists already"):
        extract(file, tmp_path / "out")


EVIL_NAMES = ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:/evil.txt"]


def _evil():
    for name in EVIL_NAMES:
        yield "zip", name, None
        yield "tar", name, tarfile.REGTYPE
    yield "zip", "link", "symlink"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        yield "tar", "link", kind


@pytest.mark.parametrize(("archive", "name", "kind"), list(_evil()))
def test_unsafe_members_extract_nothing(tmp_path, archive, name, kind):
    inside = tmp_path / "in"
    inside.mkdir()
    file = inside / f"x.{archive}"
    if archive == "zip":
        with zipfile.ZipFile(file, "w") as out:
            out.writestr("good.txt", b"1")
            info = zipfile.ZipInfo(name)
            if kind == "symlink":
                info.external_attr = 0o120777 << 16
            out.writestr(info, b"/etc/passwd")
    else:
        make_tar(file, [("good.txt", tarfile.REGTYPE, b"1"), (name, kind, b"/etc/passwd")])
    with pytest.raises(DataError, match="unsafe member .*; nothing extracted"):
        extract(file, inside / "out", bar=False)
    assert [p.name for p in inside.iterdir()] == [file.name]
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_bombs_and_caps(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("big.bin", bytes(40 << 20))
    with pytest.raises(DataError, match="bytes come out of"):
        extract(tmp_path / "bomb.zip", tmp_path / "out", bar=False)
    make_tar(tmp_path / "bomb.tar.gz", [("big", tarfile.REGTYPE, bytes(40 << 20))], "w:gz")
    with pytest.raises(DataError, match="bytes come out of"):
        extract(tmp_path / "bomb.tar.gz", tmp_path / "out", bar=False)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as out:
        for k in range(11):
            out.writestr(f"{k}", b"x")
    with pytest.raises(DataError, match="more than 10 files"):
        extract(tmp_path / "many.zip", tmp_path / "out", max_files=10, bar=False)
    with pytest.raises(DataError, match="more than 5 bytes"):
        extract(tmp_path / "many.zip", tmp_path / "out", max_bytes=5, bar=False)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_damaged_archives(tmp_path, kind):
    file = tmp_path / f"x.{kind}"
    noise = os.urandom(50_000)
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as out:
            out.writestr("a.bin", noise)
        data = bytearray(file.read_bytes())
        data[20_000] ^= 1
    else:
        make_tar(file, [("a.bin", tarfile.REGTYPE, noise)], f"w:{kind[4:]}")
        data = file.read_bytes()[:20_000]
    file.write_bytes(data)
    with pytest.raises(DataError, match="damaged|not a readable archive") as caught:
        extract(file, tmp_path / "out", bar=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_two_members_of_one_name(tmp_path):
    with contextlib.suppress(UserWarning), zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr("a", b"1")
        with pytest.warns(UserWarning):
            out.writestr("a", b"2")
    with pytest.raises(DataError, match="two members named a"):
        extract(tmp_path / "x.zip", tmp_path / "out", bar=False)
