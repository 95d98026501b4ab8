"""Ray reads, resolves, computes and writes what the local calls do, also when its workers die."""

import os
import pickle
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureSpec, StorageError, open_store
from metaxy_fs.metadata_store import FilesystemMetadataStore
from metaxy_fs.metadata_store.features import require_declaration
from metaxy_fs.storage.memory import MemoryStorage
from tests.support.patience import PATIENCE, wait_until

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("ray.data", reason="needs the extra ray")
from metaxy_fs.ext import ray as ext  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "many-machines.md"
# Ray warns of options of its own that nobody has set.
pytestmark = pytest.mark.filterwarnings("ignore:`use_.*is deprecated:DeprecationWarning")

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key="video")):
        pass

    class Faces(Feature, spec=FeatureSpec(key="video/faces", deps=[FeatureDep(key="video", columns=["path"])])):
        pass


def videos(*, start=0, end=400):
    ids = pl.DataFrame({"sample_id": range(start, end)})
    return ids.with_columns(
        path=pl.format("{}.mp4", "sample_id"), data_version=pl.struct(default=pl.format("v{}", "sample_id"))
    )


def faces(samples):
    return samples.select("sample_id", faces=pl.col("path").str.len_chars())


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers, which find the functions of this module in what is sent to them."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        # Ray gives a node half a minute to start, which a busy machine may take.
        patch.setattr(ray._private.services, "get_node", once_there(ray._private.services.get_node))
        start()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    yield
    ray.shutdown()


def once_there(get_node):
    """Return what gives a node as soon as it is there."""

    def get(*which):
        nodes = []

        def is_there():
            with suppress(RuntimeError):
                nodes.append(get_node(*which))
            return nodes

        wait_until(is_there)
        return nodes[0]

    return get


def start():
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}},
        _system_config={
            "worker_register_timeout_seconds": int(PATIENCE),
            # What else runs on this machine, and what else is on its disk, must not kill workers or refuse blocks.
            "memory_monitor_refresh_ms": 0,
            "local_fs_capacity_threshold": 1.0,
        },
    )


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    for start in range(0, 400, 100):
        store.write_metadata(Video, videos(start=start, end=start + 100))
    return store


def test_dataset_has_the_rows_of_a_read(store):
    store.write_metadata(Video, videos(end=10).with_columns(path=pl.lit("later")))
    dataset = ext.read(store, Video, latest_only=True, filters=pl.col("sample_id") < 250, rows=100)
    found = pl.concat([pl.DataFrame(block) for block in ray.get(dataset.to_arrow_refs())])
    expected = store.read_metadata(Video, latest_only=True, filters=pl.col("sample_id") < 250)
    assert_frame_equal(found, expected, check_row_order=False)


def test_increment_is_the_local_one(store):
    store.write_metadata(Faces, faces(videos()).join(store.resolve_update(Faces).new, on="sample_id").drop("path"))
    store.write_metadata(Video, videos(start=390, end=410).with_columns(data_version=pl.struct(default=pl.lit("w"))))
    found, expected = ext.resolve(store, Faces, rows=100), store.resolve_update(Faces)
    assert found.counts == expected.counts
    assert found.counts.stale == 10
    for name in ("new", "stale", "orphaned", "waiting"):
        assert_frame_equal(getattr(found, name), getattr(expected, name))


def dying_once(flag):
    """Return what kills the process that calls it first, as a scheduler or the lack of memory does."""

    def die():
        try:
            Path(flag).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return die


def test_batch_whose_worker_is_killed_is_computed_again_and_committed_once(store, tmp_path):
    die = dying_once(tmp_path / "killed")

    def compute(samples):
        die()
        return faces(samples)

    done = ext.materialize(store, Faces, compute, batch_rows=50, progress=False)
    assert (tmp_path / "killed").exists()
    assert done.counts.written == 400
    assert store.read_metadata(Faces)["sample_id"].sort().to_list() == list(range(400))


def test_what_a_function_raises_is_raised_as_it_is(store):
    def broken(_samples):
        raise ZeroDivisionError("in a worker")

    with pytest.raises(ZeroDivisionError, match="in a worker") as caught:
        ext.materialize(store, Faces, broken, progress=False)
    assert "samples of feature 'video/faces'" in caught.value.__notes__[0]


def test_dataset_is_one_commit_whose_rows_are_there_once_though_a_worker_was_killed(store, tmp_path, monkeypatch):
    die = dying_once(tmp_path / "killed")

    class Deadly(ext._FeatureSink):
        def write(self, blocks, ctx):
            receipt = super().write(blocks, ctx)
            die()  # its rows are stored, and nobody will ever name them
            return receipt

    monkeypatch.setattr(ext, "_FeatureSink", Deadly)
    target = open_store(tmp_path / "target")
    ext.write(ext.read(store, Video, rows=100), target, Video, tags={"run": "7"}, write_id="import")
    assert (tmp_path / "killed").exists()
    assert_frame_equal(target.read_metadata(Video), store.read_metadata(Video), check_row_order=False)
    assert target.history(Video)["tags"].unique().to_list() == ['{"run":"7"}']
    assert len(list((tmp_path / "target").rglob("*/_manifests/*/*.json"))) == 1


def test_dataset_that_does_not_fit_leaves_nothing_to_be_seen(store, tmp_path):
    target = open_store(tmp_path / "target")
    dataset = ext.read(store, Video, columns=["sample_id", "path"])
    with pytest.raises(Exception, match="data_version"):
        ext.write(dataset, target, Video)
    assert not target.has_feature(Video)


def test_sink_and_source_carry_no_credentials(store):
    secrets = {"key": "AKIA-not-to-be-seen", "secret": "s3cr3t-not-to-be-seen"}
    remote = open_store("s3://bucket/metadata", storage_options={**secrets, "endpoint_url": "http://localhost:1"})
    sink = ext._FeatureSink(remote, require_declaration(Faces), None, remote.commit_prepared)
    sent = ray.cloudpickle.dumps(sink)
    assert b"localhost:1" in sent
    assert b"not-to-be-seen" not in sent
    assert pickle.loads(sent)._commit is None  # noqa: S301  # this test's own bytes
    with pytest.raises(StorageError, match="no path or URL opens"):
        ext.write(ext.read(store, Video), FilesystemMetadataStore(MemoryStorage()), Video)


def test_executor_returns_and_raises_what_calls_do():
    with ext.RayExecutor() as executor:
        assert list(executor.map(pow, [2, 2, 2], range(3))) == [1, 2, 4]
        with pytest.raises(TypeError):
            executor.submit(pow).result()


def test_executor_cancels_what_is_under_way():
    executor = ext.RayExecutor()
    futures = [executor.submit(time.sleep, 1_000) for _ in range(3)]  # one more than there are workers
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    with ext.RayExecutor() as other:
        assert other.submit(pow, 2, 2).result() == 4  # a worker is free again


def test_job_of_the_page_runs(tmp_path, monkeypatch):
    [code] = re.findall(r"tests/ext/test_ray.py runs it.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with FeatureGraph().use():
        exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})  # noqa: S102  # of this repository
    assert "assert " in code  # which fails where the job is wrong
