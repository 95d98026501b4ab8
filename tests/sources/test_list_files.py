"""Files are listed as rows, and read only if they have to be."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import StorageAccessError, StorageError
from metaxy_fs.errors import ObjectNotFoundError
from metaxy_fs.ids import wall_clock
from metaxy_fs.sources import list_files
from metaxy_fs.storage import files, open_storage, s3, tree
from metaxy_fs.storage.tree import read_file

LONG_AGO = 1_700_000_000
MODIFIED = datetime.fromtimestamp(LONG_AGO, UTC)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """The local files that were opened."""
    opened = []
    was = tree._opened
    monkeypatch.setattr(tree, "_opened", lambda path: [opened.append(path), was(path)][1])
    return opened


def write(path, data=b"data", *, seconds=LONG_AGO):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)
    os.utime(path, (seconds, seconds))


def paths(pattern, **options):
    return sorted(list_files(pattern, **options).collect()["path"])


def test_a_file_is_a_row_with_what_the_file_system_notes():
    write("v/a.mp4", b"cat")
    assert list_files("v/*.mp4").collect().to_dicts() == [
        {
            "path": "v/a.mp4",
            "bytes": 3,
            "modified": MODIFIED,
            "etag": None,
            "data_version": {"default": "3 bytes, modified 2023-11-14T22:13:20.000000Z"},
        }
    ]


def test_times_keep_their_microseconds():
    write("a")
    os.utime("a", ns=(0, 1_700_000_000_123_456_789))
    assert list_files("a").collect()["modified"].item().microsecond == 123_456


def test_the_version_by_content_is_the_hash_of_the_bytes():
    write("a", b"cat" * 2_000_000)
    digest = hashlib.sha256(b"cat" * 2_000_000).hexdigest()
    assert list_files("a", by="content", container="bytes").collect()["data_version"].to_list() == [{"bytes": digest}]


@pytest.mark.parametrize("by", ["etag", "modified", "content"])
def test_without_a_match_the_frame_has_its_columns(by):
    found = list_files("*.mp4", by=by)
    assert found.collect().height == 0
    assert found.collect().schema == found.collect_schema()


def test_a_directory_that_does_not_exist_is_an_error():
    with pytest.raises(StorageError, match="cannot list 'nothing'") as raised:
        list_files("nothing/*.mp4").collect()
    assert raised.value.root == "nothing"


@pytest.mark.parametrize("name", ["a\nb", " ", "é", "%s{0}", "-n", "back\\slash", "'\"", "🐈", "x" * 255])
def test_odd_names_are_given_as_they_are(name):
    write(f"v/{name}")
    assert paths("v/*", by="content") == [f"v/{name}"]


@pytest.mark.parametrize(
    ("pattern", "relative_to", "path"),
    [
        ("v/**", None, "v/x/a"),
        ("./v/**", None, "v/x/a"),
        ("v/", None, "v/x/a"),
        ("v/x/a", None, "v/x/a"),
        (".", None, "v/x/a"),
        ("v/**", "v", "x/a"),
        ("v/x/*", "./v/", "x/a"),
        ("v/x/a", "v/x", "a"),
    ],
)
def test_paths_are_as_the_pattern_begins_or_relative(pattern, relative_to, path):
    write("v/x/a")
    assert paths(pattern, relative_to=relative_to) == [path]


def test_absolute_patterns_give_absolute_paths(here):
    write("a")
    assert paths(here / "*") == [str(here / "a")]


def test_paths_cannot_be_relative_to_another_directory():
    with pytest.raises(ValueError, match="below 'videos', and so not relative to 'video'"):
        list_files("videos/*", relative_to="video")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"by": "size"}, 'by is "etag"'), ({"storage_options": {"anon": True}}, "storage_options are for URLs")],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        list_files("v/*", **options)


@pytest.mark.parametrize("pattern", ["s3://", "s3:///a", "s3://*/a"])
def test_a_pattern_without_a_bucket_is_refused(pattern):
    with pytest.raises(ValueError, match="names no bucket"):
        list_files(pattern)


def test_links_to_files_are_files_and_links_to_directories_are_not_followed():
    write("v/x/a")
    for link, target in {"v/link": "x/a", "v/x/up": "..", "v/broken": "nothing"}.items():
        Path(link).symlink_to(target)
    assert paths("v/**") == ["v/link", "v/x/a"]


def test_what_is_no_file_is_left_out():
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert paths("*") == []


def test_a_name_that_is_no_utf8_is_an_error():
    write(b"v/caf\xe9".decode("utf-8", "surrogateescape"))
    with pytest.raises(StorageError, match=r"'v/caf\\\\xe9': its name is not UTF-8"):
        list_files("v/*").collect()


def test_a_directory_that_may_not_be_listed_is_an_error(monkeypatch):
    write("v/x/a")
    scandir = os.scandir

    def refuse(path):
        if path == b"v/x":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageAccessError, match="cannot list 'v/x': Permission denied"):
        list_files("v/**").collect()
    assert paths("v/*") == []


@pytest.mark.parametrize("by", ["etag", "content"])
def test_a_directory_that_vanishes_meanwhile_is_not_there(monkeypatch, by):
    write("v/a"), write("v/x/b")
    scandir = os.scandir

    def vanish(path):
        if path == b"v/x":
            shutil.rmtree("v/x")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert paths("v/**", by=by) == ["v/a"]


def test_a_file_that_vanishes_before_it_is_hashed_is_not_there(monkeypatch):
    write("a"), write("b")
    was = tree._opened
    monkeypatch.setattr(tree, "_opened", lambda path: [Path("a").unlink(missing_ok=True), was(path)][1])
    paths("*", by="content")
    assert paths("*", by="content") == ["b"]


def test_a_file_that_changes_while_it_is_read_is_an_error():
    write("a", bytes(10))
    pieces = read_file("a", piece=4)
    next(pieces)
    write("a", bytes(11))
    with pytest.raises(StorageError, match="changed while it was read"):
        list(pieces)


def test_known_files_are_not_read_again(read):
    for name in "abc":
        write(name)
    known = list_files("*", by="content").collect()
    assert sorted(read) == ["a", "b", "c"]
    read.clear()
    write("a", b"other"), write("b", seconds=LONG_AGO + 1)
    again = list_files("*", by="content", known=known).collect()
    assert sorted(read) == ["a", "b"]
    version = {row["path"]: row["data_version"] for row in again.to_dicts()}
    before = {row["path"]: row["data_version"] for row in known.to_dicts()}
    assert version["a"] != before["a"]
    assert (version["b"], version["c"]) == (before["b"], before["c"])


def test_a_file_is_one_row_however_often_it_is_known(read):
    write("a")
    known = list_files("*", by="content").collect()
    again = list_files("*", by="content", known=pl.concat([known, known])).collect()
    assert again["path"].to_list() == read == ["a"]


@pytest.mark.parametrize("lost", ["version", "container"])
def test_what_is_known_without_a_version_is_read_again(read, lost):
    write("a")
    known = list_files("*", by="content", container="other" if lost == "container" else "default").collect()
    known = known.drop("data_version") if lost == "version" else known
    again = list_files("*", by="content", known=known).collect()
    assert again["data_version"].to_list() == [{"default": hashlib.sha256(b"data").hexdigest()}]
    assert read == ["a", "a"]


def test_a_file_hashed_right_after_its_modification_is_hashed_again(read):
    write("a", seconds=wall_clock() // 1_000_000)
    known = list_files("*", by="content").collect()
    list_files("*", by="content", known=known).collect()
    assert read == ["a", "a"]


def test_what_was_listed_without_hashes_tells_no_content(read):
    write("a")
    list_files("*", by="content", known=list_files("*").collect()).collect()
    assert read == ["a"]


def test_files_are_read_only_where_their_versions_are_asked_for(read):
    write("a")
    listed = list_files("*", by="content")
    assert listed.select("path", "bytes").collect().rows() == [("a", 4)]
    assert listed.filter(pl.col("bytes") > 1).select("path").head(1).collect().rows() == [("a",)]
    assert read == []
    listed.filter(pl.col("hashed_at").is_not_null()).select("path").collect()
    assert read == ["a"]


@pytest.fixture
def listed(server, bucket):
    """A function that puts objects, and one that lists some of them."""
    storage = open_storage(server.url(bucket), storage_options=server.storage_options)

    def find(pattern, **options):
        return list_files(server.url(bucket, pattern), storage_options=server.storage_options, **options).collect()

    return storage, find


def names(found, server, bucket):
    return sorted(path.removeprefix(server.url(bucket) + "/") for path in found["path"])


def test_objects_are_found_by_patterns(listed, server, bucket):
    storage, find = listed
    for path in ("v/a.mp4", "v/x/b.mp4", "v/x/c.txt", "v/.h/d.mp4", "v-old/e.mp4", "v/f g\u00e9.mp4", "top.mp4"):
        storage.put(path, b"1")
    expected = {
        "v/**/*.mp4": ["v/a.mp4", "v/f gé.mp4", "v/x/b.mp4"],
        "v/*.mp4": ["v/a.mp4", "v/f gé.mp4"],
        "v*/?.mp4": ["v-old/e.mp4", "v/a.mp4"],
        "v": ["v/a.mp4", "v/f gé.mp4", "v/x/b.mp4", "v/x/c.txt"],
        "v/x/b.mp4": ["v/x/b.mp4"],
        "*": ["top.mp4"],
        "nothing/*": [],
    }
    assert {pattern: names(find(pattern), server, bucket) for pattern in expected} == expected
    assert len(find("").to_dicts()) == 6
    assert (
        names(find("v/**", include_hidden=True, relative_to=server.url(bucket, "v")), server, bucket)[0] == ".h/d.mp4"
    )


def test_an_object_has_its_etag_as_version(listed):
    storage, find = listed
    storage.put("v/a", b"1")
    [row] = find("v/*").to_dicts()
    assert (row["bytes"], row["data_version"]) == (1, {"default": row["etag"]})
    assert '"' not in row["etag"]
    assert row["modified"].utcoffset().total_seconds() == 0
    storage.delete("v/a")
    storage.put("v/a", b"2")
    assert find("v/*")["data_version"].to_list() != [row["data_version"]]


def test_objects_are_hashed_once_for_each_etag(listed, server):
    storage, find = listed
    for name in "abc":
        storage.put(f"v/{name}", name.encode())
    known = find("v/*", by="content")
    storage.delete("v/b")
    storage.put("v/b", b"other")
    server.clear_requests()
    again = find("v/*", by="content", known=known)
    assert sorted(server.kinds()) == ["GET", "LIST"]
    assert hashlib.sha256(b"other").hexdigest() in [row["default"] for row in again["data_version"]]


def test_a_large_object_is_read_in_pieces(listed, monkeypatch, server):
    monkeypatch.setattr("metaxy_fs.listing.PIECE", 1000)
    storage, find = listed
    storage.put("a", data := bytes(range(250)) * 10)
    server.clear_requests()
    assert find("a", by="content")["data_version"].to_list() == [{"default": hashlib.sha256(data).hexdigest()}]
    assert server.kinds().count("GET") == 3


def test_a_part_without_wildcards_bounds_the_listing(listed, server):
    storage, find = listed
    storage.put("v/2026-01/a", b"1")
    storage.put("v/2027-01/a", b"1")
    server.clear_requests()
    find("v/2026-*/*")
    assert [request.query["prefix"] for request in server.requests()] == ["v/2026-"]


def test_an_object_that_vanishes_before_it_is_hashed_is_not_there(listed, monkeypatch):
    storage, find = listed
    storage.put("a", b"1"), storage.put("b", b"1")

    def vanish(self, info, *, piece):
        if info.path.endswith("/a"):
            raise ObjectNotFoundError("gone")
        return was(self, info, piece=piece)

    was = files._BucketListing.read
    monkeypatch.setattr(files._BucketListing, "read", vanish)
    assert [path[-1] for path in find("*", by="content")["path"]] == ["b"]


def test_a_bucket_that_does_not_exist_is_an_error(server):
    pattern = server.url("no-such-bucket", "v/*")
    with pytest.raises(StorageError, match="the bucket does not exist"):
        list_files(pattern, storage_options=server.storage_options).collect()


def test_a_bucket_that_refuses_is_an_error(listed, server, bucket):
    _, find = listed
    server.deny(bucket)
    with pytest.raises(StorageAccessError, match="refused"):
        find("v/*")


_MILLION = """
import os, sys
import polars as pl
from metaxy_fs.sources import list_files
from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.storage import files
from datetime import datetime, UTC

def pages(self, prefix, *, is_recursive):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for page in range(int(sys.argv[1]) // 1000):
        yield [ObjectInfo(f"v/{page:06}/{i:06}.mp4", i, now, f'"{page:032}"') for i in range(1000)]

from metaxy_fs.storage.remote import ObjectStorage
ObjectStorage.pages = pages
rows = sum(batch.height for batch in list_files("s3://bucket/v/**/*.mp4").collect_batches(maintain_order=False))
status = open("/proc/self/status").read()  # `getrusage` has the peak of the parent in it
print(rows, int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


def test_a_million_objects_are_listed_in_bounded_memory():
    few, many = (
        subprocess.run(
            [sys.executable, "-c", _MILLION, count], capture_output=True, text=True, check=True
        ).stdout.split()
        for count in ("100000", "1000000")
    )
    assert many[0] == "1000000"
    # All of them as a frame take 130 MB, as objects 400 MB.
    assert int(many[1]) - int(few[1]) < 200


def test_directories_of_odd_names_can_be_named():
    write("v [1]*/x?/a")
    assert paths("v [[]1[]][*]/x[?]/*", relative_to="v [1]*") == ["x?/a"]


def test_a_listing_is_taken_page_by_page(s3_server, s3_bucket, monkeypatch):
    storage = open_storage(s3_server.url(s3_bucket), storage_options=s3_server.storage_options)
    for name in "abcde":
        storage.put(f"v/{name}", b"1")
    monkeypatch.setattr(s3, "PAGE", 2)
    s3_server.clear_requests()
    found = list_files(s3_server.url(s3_bucket, "v/*"), storage_options=s3_server.storage_options)
    assert found.collect().height == 5
    assert s3_server.kinds() == ["LIST"] * 3
