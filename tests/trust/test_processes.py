"""Which ways of running several processes and threads work, and what is said of those that cannot?"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PRELUDE = """
    import os, sys, traceback
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
        with store.buffered(Video) as buffer:
            for use in {USES_OF_POLARS}:
                outcome_of(lambda: eval(use))
            outcome_of(lambda: store.has_feature(Video) and store.list_features())
        """,
    ).splitlines()
    assert len(output) == len(USES_OF_POLARS) + 1
    assert all(line.startswith("refused: Process ") and "spawn" in line for line in output[:-1])
    assert output[-1] == "child: [FeatureKey(['video'])]"


def run(root: Path, code: str, *arguments: str) -> str:
    """Run code in a process of its own, which has a minute, and return what it prints."""
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", source, str(root), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout
