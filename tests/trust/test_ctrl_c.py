"""Ctrl-C ends each operation at once, and leaves everything as it should be."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore, verify
from tests.trust.interrupted import OPERATIONS, Press
from tests.trust.victims import Clip, Job, Video

REPOSITORY = Path(__file__).parents[2]
PROMPTLY = 300.0
"""In seconds, on a machine that is ten times as busy; the figures of docs/reliability.md say what it is."""


def test_ctrl_c_ends_each_operation_on_a_local_root(tmp_path, soak):
    presses = press(str(tmp_path), list(OPERATIONS), scratch=tmp_path / "scratch", times=40 if soak else 1)
    check(presses, FilesystemMetadataStore(tmp_path / "source"))


def test_ctrl_c_ends_each_operation_on_a_service(tmp_path, soak, server, bucket):
    options, root = server.storage_options, server.url(bucket)
    operations = list(OPERATIONS) if soak else ["read", "buffer_with_a_name", "copy"]
    presses = press(root, operations, scratch=tmp_path, times=10 if soak else 1, options=options)
    check(presses, FilesystemMetadataStore(f"{root}/source", storage_options=options))


CUT = """
import sys
from metaxy_fs import FilesystemMetadataStore
from tests.trust.victims import Video, tagged

block = FilesystemMetadataStore(sys.argv[1]).buffered(Video)
block.__enter__().write(tagged("held", 3))
"""
BETWEEN = """
import os, random, signal, sys, threading, time
import polars as pl
from metaxy_fs import FilesystemMetadataStore
from tests.trust.victims import Video, tagged

ended = threading.Event()

def press():
    time.sleep(random.uniform(0, 0.3))
    while not ended.is_set():
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait(60)  # for Python drops one that comes in the first step of a finalizer

try:
    with FilesystemMetadataStore(sys.argv[1]).buffered(Video) as buffer:
        buffer.write(tagged("held", 3))
        threading.Thread(target=press).start()
        while True:
            pl.select(pl.int_range(500_000).shuffle(seed=1)).lazy().sort("literal").collect()
finally:
    ended.set()
"""


@pytest.mark.parametrize("code", [CUT, BETWEEN], ids=["cut", "Ctrl-C in a query"])
def test_rows_of_a_buffer_are_committed_though_the_end_of_its_block_is_cut(tmp_path, soak, code):
    for number in range(20 if soak else 1):
        root = tmp_path / str(number)
        subprocess.run([sys.executable, "-c", code, root], cwd=REPOSITORY, stderr=subprocess.DEVNULL, check=False)
        assert FilesystemMetadataStore(root).read_metadata(Video).height == 3


def press(root: str, operations: list[str], *, scratch: Path, times: int, options: dict | None = None) -> list[Press]:
    """Press Ctrl-C in some operations of a process of its own."""
    scratch.mkdir(exist_ok=True)
    arguments = [f"{root}/source", f"{root}/target", str(times), msgspec.json.encode(options).decode()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.trust.interrupted", *arguments, *operations],
        env=os.environ | {"TMPDIR": str(scratch)},
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert list(scratch.iterdir()) == []
    presses = [msgspec.json.decode(line, type=Press) for line in done.stdout.splitlines()]
    assert len(presses) == times * len(operations)
    return presses


def check(presses: list[Press], store: FilesystemMetadataStore) -> None:
    for each in presses:
        assert not each.error or ("PanicException" in each.error and "KeyboardInterrupt" in each.error), each.error
        assert each.seconds < PROMPTLY, each
        assert not each.threads, each
        assert not each.files, each
    # Python drops one that comes in the first step of a finalizer.
    assert sum(each.presses > 1 for each in presses) <= max(1, len(presses) // 100), presses
    assert {finding.severity for finding in verify(store).findings} <= {"note"}
    for feature in (Video, Clip):
        writes = store.read_metadata(feature).group_by("write").agg(pl.len(), pl.col("of").first())
        # A buffer without a name commits again what was under way.
        assert writes.filter((pl.col("len") != pl.col("of")) & (pl.col("len") != 2 * pl.col("of"))).is_empty()
    if store.has_feature(Job):
        assert not store.read_metadata(Job).get_column("sample_id").is_duplicated().any()
    report(presses)


def report(presses: list[Press]) -> None:
    for operation in dict.fromkeys(each.operation for each in presses):
        of_it = sorted(each.seconds for each in presses if each.operation == operation)
        panics = sum(bool(each.error) for each in presses if each.operation == operation)
        echoes = sum(each.echoes for each in presses if each.operation == operation)
        print(
            f"\n{operation:20} {len(of_it)} presses, median {1000 * of_it[len(of_it) // 2]:.0f} ms, "
            f"at most {1000 * of_it[-1]:.0f} ms, {echoes} raised twice, {panics} panics of Polars",
            end="",
        )
    print()
