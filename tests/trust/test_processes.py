"""Ways to run several processes and threads: those that work, and the errors of those that cannot."""

import asyncio
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    ForkedProcessError,
    compact,
    copy_metadata,
    vacuum,
    verify,
)
from tests.support.patience import PATIENCE

THREADS = 16

with FeatureGraph().use():

    class Recording(Feature, spec=FeatureSpec(key=FeatureKey(["recording"]))):
        """Declared where processes that are spawned find it."""

    class Peaks(Feature, spec=FeatureSpec(key=FeatureKey(["peaks"]), deps=[FeatureDep(key=FeatureKey(["recording"]))])):
        """Declared beside it."""


PRELUDE = """
    import os, sys, time, traceback
    import polars as pl
    from metaxy_fs import *

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        pass

    def rows(*ids):
        return pl.DataFrame({"sample_id": ids, "data_version": [{"default": f"v{i}"} for i in ids]})

    def outcome_of(child):
        \"\"\"Run a function in a forked child, and print what became of it.\"\"\"
        pid = os.fork()
        if not pid:
            try:
                print("child:", child(), flush=True)
            except ForkedProcessError as error:
                print("refused:", error, flush=True)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    store = FilesystemMetadataStore(sys.argv[1])
"""
USES_OF_POLARS = [
    "store.write_metadata(Video, made)",
    "InMemoryMetadataStore().write_metadata(Video, made)",
    "store.buffered(Video).__enter__()",
    "buffer.write(made)",
    "buffer.flush()",
    "context.__exit__(None, None, None)",
    "store.read_metadata(Video)",
    'store.scan_metadata(FeatureKey(["other"]))',
    "open_store(sys.argv[1]).read_metadata(Video)",
    'store.at("then").read_metadata(Video)',
    "store.resolve_update(Video, samples=made)",
    "store.explain(Video, 1)",
    "store.history(Video)",
    'store.create_snapshot("now")',
    "store.list_snapshots()",
    "verify(store)",
    "compact(store)",
    "vacuum(store, dry_run=True)",
    "repair(store, dry_run=True)",
    "copy_metadata(Video, source=store, target=store)",
]


def test_a_child_forked_before_polars_was_used_reads_and_writes(tmp_path):
    output = run(
        tmp_path,
        """
        def child():
            store.write_metadata(Video, rows(1, 2))
            return store.read_metadata(Video).height

        outcome_of(child)
        outcome_of(child)
        store.write_metadata(Video, rows(3))
        print("parent:", store.read_metadata(Video).height)
        """,
    )
    assert output.splitlines() == ["child: 2", "child: 4", "parent: 5"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the names of threads are not to be seen")
def test_a_child_forked_after_polars_was_used_is_refused_what_would_hang(tmp_path):
    output = run(
        tmp_path,
        f"""
        made = rows(1)
        store.write_metadata(Video, made)
        store.create_snapshot("then")
        context = store.buffered(Video)
        with context as buffer:
            for use in {USES_OF_POLARS}:
                outcome_of(lambda: eval(use))
            outcome_of(lambda: store.has_feature(Video) and store.list_features())
        """,
    ).splitlines()
    assert len(output) == len(USES_OF_POLARS) + 1
    assert all(line.startswith("refused: Process ") and "spawn" in line for line in output[:-1])
    assert output[-1] == "child: [FeatureKey(['video'])]"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the names of threads are not to be seen")
@pytest.mark.parametrize("way", ["sys.exit()", "os.kill(os.getpid(), 15), time.sleep(600), os._exit(1)"])
def test_a_child_that_leaves_the_block_of_a_buffer_leaves_its_rows_to_the_parent(tmp_path, way):
    output = run(
        tmp_path,
        f"""
        with store.buffered(Video, seconds=None) as buffer:
            buffer.write(rows(1))
            pid = os.fork()
            if not pid:
                {way}
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            buffer.write(rows(2))
        print(store.read_metadata(Video)["sample_id"].to_list())
        """,
    )
    assert output.splitlines() == ["0" if way == "sys.exit()" else "-15", "[1, 2]"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pickled_chain_works_in_processes_of_a_pool(tmp_path, method):
    production = FilesystemMetadataStore(tmp_path / "production")
    production.write_metadata(Recording, recordings("a", "b"))
    store = FilesystemMetadataStore(tmp_path / "dev", fallback_stores=[production])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(calculate_peaks, store).result() == 2
    assert not store.resolve_update(Peaks)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the names of threads are not to be seen")
def test_a_process_of_a_pool_that_forks_is_refused(tmp_path):
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Recording, recordings("a"))
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
        pytest.raises(ForkedProcessError, match="spawn"),
    ):
        pool.submit(calculate_peaks, store).result()


def test_many_threads_share_one_store(tmp_path):
    store = FilesystemMetadataStore(tmp_path)
    at_once, errors = threading.Barrier(THREADS), []

    def work(number: int) -> None:
        try:
            at_once.wait()
            mine = recordings(f"{number}-a", f"{number}-b")
            store.write_metadata(Recording, mine)
            assert store.read_metadata(Recording, filters=pl.col("sample_id").str.starts_with(f"{number}-")).height == 2
            assert set(mine["sample_id"]) <= set(store.resolve_update(Peaks).new["sample_id"])
            store.calculate_and_write_data_versions(Peaks, mine.select("sample_id"))
            with store.buffered(Recording) as buffer:
                buffer.write(recordings(f"{number}-c"))
            store.history(Recording)
        except BaseException as error:  # noqa: BLE001  # raised in a thread, where nobody sees it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    expected = sorted(f"{number}-{letter}" for number in range(THREADS) for letter in "abc")
    assert sorted(store.read_metadata(Recording)["sample_id"]) == expected
    assert store.resolve_update(Peaks).new.height == THREADS


@pytest.mark.parametrize("where", ["local", "s3", "gcs"])
def test_everything_works_where_an_event_loop_runs(tmp_path, request, where):
    root, options = str(tmp_path), None
    if where != "local":
        server = request.getfixturevalue(f"{where}_server")
        root, options = server.url(request.getfixturevalue(f"{where}_bucket")), server.storage_options

    async def cell() -> None:
        store, copied = (FilesystemMetadataStore(f"{root}/{name}", storage_options=options) for name in "ab")
        store.write_metadata(Recording, recordings("a", "b"), write_id="first")
        store.calculate_and_write_data_versions(Peaks, recordings("a").select("sample_id").lazy()).collect()
        with store.buffered(Recording) as buffer:
            buffer.write(recordings("c"))
        reads = [asyncio.to_thread(store.read_metadata, Recording) for _ in range(3)]
        assert [rows.height for rows in await asyncio.gather(*reads)] == [3, 3, 3]
        assert sorted(store.resolve_update(Peaks, lazy=True).new.collect()["sample_id"]) == ["b", "c"]
        store.create_snapshot("now")
        assert store.at("now").read_metadata(Peaks).height == 1
        assert len(compact(store, full=True)) == 1
        assert vacuum(store, dry_run=True).skipped == ()
        assert copy_metadata(Recording, source=store, target=copied).commits == 2
        assert verify(copied).findings == ()

    asyncio.run(cell())


def calculate_peaks(store: FilesystemMetadataStore) -> int:
    """Bring a feature up to date, and return how many rows it has then."""
    store.write_metadata(Peaks, store.resolve_update(Peaks).pending)
    return store.read_metadata(Peaks).height


def recordings(*names: str) -> pl.DataFrame:
    """Return a row for each sample."""
    return pl.DataFrame({"sample_id": names, "data_version": [{"default": f"take of {name}"} for name in names]})


def run(root: Path, code: str, *arguments: str) -> str:
    """Run code in a process of its own, and return what it prints."""
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    # From 3.12 on, Python warns of forks in processes that have threads, which is what some of these do.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source, str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout
