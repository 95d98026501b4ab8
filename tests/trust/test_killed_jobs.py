"""A job over files that is killed at random moments and started again computes every file, and none by half."""

import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import polars as pl

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureNotFoundError, FeatureSpec, open_store, verify
from metaxy_fs.sources import update_files
from tests.support.patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]
FILES = 120

JOB = """
import sys, time
from metaxy_fs.metadata_store import materialize
from tests.trust.test_killed_jobs import bring_up_to_date

materialize._ROWS = 7  # rows a commit, so that kills come between and within commits
print("begins", flush=True)
bring_up_to_date(sys.argv[1])
"""

with FeatureGraph().use():

    class Text(Feature, spec=FeatureSpec(key="text", id_columns=["path"])):
        """The files."""

    class Words(Feature, spec=FeatureSpec(key="words", id_columns=["path"], deps=[FeatureDep(key="text")])):
        """How many words each has."""


def bring_up_to_date(root):
    store = open_store(f"{root}/metadata")
    update_files(store, Text, f"{root}/files/*.txt", by="content")
    return store.materialize(Words, count_words, batch_rows=3)


def count_words(batch):
    time.sleep(0.005)
    return batch.with_columns(words=pl.Series([len(Path(path).read_text().split()) for path in batch["path"]]))


def stored(store):
    """The rows of all words, those of a file in the order of their commits; they are whole, and none is there twice."""
    try:
        rows = store.read_metadata(Words)
    except FeatureNotFoundError:
        return {}
    assert not rows.select("path", "data_version").is_duplicated().any()
    assert rows.null_count().sum_horizontal().item() == 0
    return {
        (path, version["default"]): words
        for path, version, words in rows.select("path", "data_version", "words").iter_rows()
    }


def test_a_killed_job_is_started_again_and_loses_nothing(tmp_path, soak):
    dice = random.Random(5)  # noqa: S311  # no secret
    (tmp_path / "files").mkdir()
    paths = [tmp_path / "files" / f"{number:03}.txt" for number in range(FILES)]
    serials = count()
    for path in paths:
        path.write_text(text(dice, serials))
    store, before, kills = open_store(f"{tmp_path}/metadata"), {}, 0

    while kills < (50 if soak else 4):
        for path in dice.sample(paths, 30):
            path.write_text(text(dice, serials))
        kills += killed(tmp_path, after=dice.uniform(0, 1.2))
        now = stored(store)
        assert before.items() <= now.items(), "what was committed stays"
        before = now

    assert bring_up_to_date(tmp_path).counts.failed == 0
    latest = store.read_metadata(Words, latest_only=True)
    assert dict(latest.select("path", "words").iter_rows()) == {
        str(path): len(path.read_text().split()) for path in paths
    }
    assert bring_up_to_date(tmp_path).counts.written == 0
    assert {finding.severity for finding in verify(store).findings} <= {"note"}
    print(f"\n{kills} kills, {len(before)} rows before the last run")


def text(dice, serials):
    """A text that there was not before: one that comes back is computed once more, and rightly so."""
    return "word " * dice.randint(1, 9) + str(next(serials))


def killed(root, *, after):
    """Run the job, kill it after so many seconds, and return whether it was killed before its end."""
    job = subprocess.Popen([sys.executable, "-c", JOB, root], cwd=REPOSITORY, stdout=subprocess.PIPE)
    with job:
        assert job.stdout.readline() == b"begins\n"
        time.sleep(after)
        job.kill()
        job.wait(PATIENCE)
    assert job.returncode in (0, -signal.SIGKILL)
    return job.returncode != 0
