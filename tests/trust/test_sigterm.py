"""SIGTERM in a job that exits on it: what its buffers hold is committed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metaxy_fs import FilesystemMetadataStore
from tests.support.patience import PATIENCE
from tests.trust.victims import Clip, Video

LINE = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
REPOSITORY = Path(__file__).parents[2]
JOB = f"""
import signal, sys, time
import polars as pl
from concurrent.futures import ThreadPoolExecutor
from metaxy_fs import FilesystemMetadataStore
from tests.trust.victims import Clip, Video, tagged

{LINE}
store = FilesystemMetadataStore(sys.argv[1])
with store.buffered(Video, seconds=None) as first, store.buffered(Clip, seconds=None) as second:
    first.write(tagged("first", 3))
    second.write(tagged("second", 2))
    print("ready", flush=True)
    WORK
"""
WORK = {
    "sleep": "time.sleep(PATIENCE)",
    "query": "while True: pl.select(pl.int_range(500_000).shuffle(seed=1)).lazy().sort('literal').collect()",
    "pool": "with ThreadPoolExecutor(2) as pool: list(pool.map(lambda _: time.sleep(0.1), range(10 * PATIENCE)))",
}


@pytest.mark.parametrize("work", WORK)
def test_a_job_with_one_line_commits_its_rows_on_sigterm(tmp_path: Path, work: str) -> None:
    code = JOB.replace("WORK", WORK[work].replace("PATIENCE", str(int(PATIENCE))))
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=REPOSITORY, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"ready\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(PATIENCE) == 143
    store = FilesystemMetadataStore(tmp_path)
    assert [store.read_metadata(feature).height for feature in (Video, Clip)] == [3, 2]


def test_a_job_without_the_line_loses_what_its_buffers_hold(tmp_path: Path) -> None:
    code = JOB.replace(LINE, "").replace("WORK", f"time.sleep({int(PATIENCE)})")
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=REPOSITORY, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"ready\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(PATIENCE) == -signal.SIGTERM
    assert not FilesystemMetadataStore(tmp_path).has_feature(Video)
