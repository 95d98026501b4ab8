"""Tasks of plans give together, in whatever process and whenever they run, what the local call gave."""

import pickle
import subprocess
import sys
import time
import zlib

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs import compact, open_store, vacuum
from metaxy_fs.errors import CorruptObjectError, DependencyError, StorageError
from metaxy_fs.log import seen
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore, tasks
from metaxy_fs.spec import ContainerSpec, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing import FaultyStorage
from metaxy_fs.versioning.increment import Increment
from tests.metadata_store.test_twins import DONE, FEATURES, HAPPENS, Twins, attempt, small_files
from tests.versioning.lineage_model import NoVersionError
from tests.versioning.lineage_strategies import histories, predicates
from tests.versioning.pieces import tiny_pieces

CLIP, FRAME, SCENE = FEATURES


def travelled(task):
    """Return a task as another process gets it."""
    return loaded(pickle.dumps(task))


def loaded(data):
    return pickle.loads(data)  # noqa: S301  # this test's own bytes


def together(parts):
    """Return increments of ranges as one, and its frames in an order that does not depend on the ranges."""
    frames = [pl.concat(getattr(part, name) for part in parts) for name in ("new", "stale", "orphaned", "waiting")]
    return Increment(*frames, retired=sum(part.retired for part in parts))


def assert_equal(found, expected):
    for name in ("new", "stale", "waiting"):
        assert_frame_equal(getattr(found, name), getattr(expected, name))
    assert_frame_equal(found.orphaned, expected.orphaned, check_row_order=False)
    assert found.retired == expected.retired


class Planned(Twins):
    """Chains of files alone; plans are kept, and run when their files are long gone."""

    def __init__(self, dice, places, mode):
        super().__init__(dice, places, mode)
        self.plans = []

    def plan(self, feature):
        at = self.dice.choice([None, None, *self.snapshots])
        store = self.files[0] if at is None else self.files[0].at(at)
        rows = self.dice.choice([1, 4, 100])
        if feature is CLIP or self.dice.random() < 0.4:
            options = self.read_options()
            self.keep(
                attempt(lambda: store.plan_read(feature, rows=rows, **options)),
                attempt(lambda: store.read_metadata(feature, **options)),
            )
        else:
            options = self.update_options()
            self.keep(
                attempt(lambda: store.plan_update(feature, rows=rows, **options)),
                attempt(lambda: store.resolve_update(feature, **options)),
            )

    def read_options(self):
        return {
            "columns": self.dice.choice([None, None, ["sample_id", "data_version"]]),
            "filters": self.dice.choice([None, None, pl.col("sample_id") < 3, pl.col("sample_id").is_in([0, 4])]),
            "latest_only": self.dice.random() < 0.5,
            "versions": self.dice.choice(["current", "all"]),
            "with_commits": self.dice.choice([False, True, "tags"]),
        }

    def update_options(self):
        where = self.dice.choice([None, None, pl.col("sample_id") < 3, pl.col("sample_id") % 2 == 1])
        return {"where": where, "stale_if": self.dice.choice([None, None, pl.col("sample_id") == 2])}

    def keep(self, plan, expected, about=()):
        if isinstance(plan, Exception):
            assert type(plan) is type(expected), f"{plan!r} and {expected!r}"
        else:
            self.plans.append(([pickle.dumps(task) for task in plan], expected))

    def run(self):
        for plan, expected in self.plans:
            store = self.opened()[0] if isinstance(self.places[0], MemoryStorage) else None
            found = attempt(lambda plan=plan, store=store: [ran(loaded(task), store) for task in plan])
            if isinstance(found, Exception):
                assert type(found) is type(expected), f"{found!r} and {expected!r}"
            elif isinstance(expected, Increment):
                assert_equal(together(found), expected)
            else:
                assert_frame_equal(pl.concat(found), expected, check_row_order=False)


def ran(task, store=None):
    return task.run(store=store) if isinstance(task, tasks.UpdateTask) else task.read(store=store)


@pytest.mark.parametrize("kind", ["local", "remote"])
@given(dice=st.randoms(use_true_random=False), mode=st.sampled_from(["feature", "sample"]))
@settings(max_examples=10)
def test_tasks_give_what_the_local_call_gave_whatever_became_of_the_files(tmp_path_factory, kind, dice, mode):
    if kind == "local":
        places = [tmp_path_factory.mktemp(name) for name in ("near", "far")]
    else:
        places = [MemoryStorage(wall=lambda: time.time_ns() // 1_000) for _ in range(2)]
    with small_files():
        planned = Planned(dice, places, mode)
        for _ in range(20):
            step = dice.choice([*HAPPENS, *["plan"] * 5])
            getattr(planned, step)(dice.choice(FEATURES))
        planned.vacuum(None)
        planned.run()


@given(history=histories(carry=True), data=st.data())
@settings(max_examples=25)
def test_increments_of_any_graph_can_be_divided(history, data):
    model, store = history.model, InMemoryMetadataStore()
    with tiny_pieces(), model.graph.use():
        history.replay(store)
        for feature in history.derived:
            try:
                _, ids, _ = model.grain(feature)
            except NoVersionError:
                ids = ()
            where, _ = data.draw(predicates(history, feature, ids))
            key, options = FeatureKey(feature), {"where": data.draw(st.sampled_from([None, where]))}
            expected = attempt(lambda key=key, options=options: store.resolve_update(key, **options))
            plan = attempt(lambda key=key, options=options: store.plan_update(key, rows=1, **options))
            if not isinstance(plan, Exception):
                plan = attempt(lambda plan=plan: together([travelled(task).run(store=store) for task in plan]))
            if isinstance(expected, Exception) or isinstance(plan, Exception):
                assert type(plan) is type(expected), f"{plan!r} and {expected!r}"
            else:
                assert_equal(plan, expected)


def videos(ids, **columns):
    rows = pl.DataFrame({"sample_id": ids}, schema={"sample_id": pl.Int64})
    versions = pl.struct(pl.format("v{}", "sample_id").alias("default"))
    return rows.with_columns(path=pl.format("s3://videos/{}.mp4", "sample_id"), data_version=versions, **columns)


@pytest.fixture
def graph():
    graph = FeatureGraph.from_specs(
        [
            FeatureSpec(key="video"),
            FeatureSpec(key="faces", deps=[FeatureDep(key="video", columns=["path"])]),
            *(FeatureSpec(key=f"other/{number}") for number in range(200)),
        ]
    )
    with graph.use():
        yield graph


def filled(store, *, commits=40, rows=50):
    for number in range(commits):
        store.write_metadata("video", videos(range(number * rows, (number + 1) * rows)))
    return store


def test_task_is_small_and_a_file_takes_less_than_a_kilobyte_of_it(tmp_path, graph):
    store = filled(open_store(tmp_path))
    for plan in (store.plan_read("video", latest_only=True), store.plan_update("faces")):
        assert len(plan) == 5  # eight files each
        assert max(len(pickle.dumps(task)) for task in plan) < 10_000
        assert all(len(files) / 8 < 1_000 for task in plan for files in task._files)
    compact(store, full=True)
    store = open_store(tmp_path)
    [task] = store.plan_update("faces")
    assert len(pickle.dumps(task)) < 10_000


def test_task_of_many_columns_is_small(tmp_path, graph):
    store = open_store(tmp_path)
    columns = {f"metric_number_{number}": pl.col("sample_id") / number for number in range(1, 101)}
    for number in range(8):
        store.write_metadata("video", videos(range(number * 100, number * 100 + 100), **columns))
    [task] = store.plan_read("video")
    assert len(pickle.dumps(task)) < 10_000
    assert task.read().width == 103


def test_files_that_overlap_are_not_named_by_every_task(tmp_path, graph):
    store = open_store(tmp_path)
    for number in range(60):
        store.write_metadata("video", videos(range(number, 6_000, 60)))
    assert len(store.plan_read("video")) <= 2


def test_task_has_no_more_of_a_range_than_its_rows(tmp_path, graph):
    store = filled(open_store(tmp_path), commits=4, rows=1_000)
    plan = store.plan_read("video", rows=1_000)
    assert [task.rows for task in plan] == [1_000] * 4
    found = [task.read() for task in plan]
    assert [rows["sample_id"].to_list() for rows in found] == [
        list(range(at, at + 1_000)) for at in range(0, 4_000, 1_000)
    ]


def test_rows_of_a_task_come_in_commit_order(tmp_path, graph):
    store = open_store(tmp_path)
    for number in range(3):
        store.write_metadata("video", videos([3, 1], number=pl.lit(number)))
    compact(store, full=True)
    [task] = store.plan_read("video", columns=["number", "sample_id"])
    assert task.read().rows() == [(0, 1), (0, 3), (1, 1), (1, 3), (2, 1), (2, 3)]


def test_tasks_list_nothing(tmp_path, graph, monkeypatch):
    store = filled(open_store(tmp_path))
    plans = [pickle.dumps(task) for task in (*store.plan_read("video"), *store.plan_update("faces"))]

    def refuse(*_args, **_options):
        raise AssertionError("a task has listed")

    monkeypatch.setattr("metaxy_fs.storage.local.LocalStorage.list", refuse)
    monkeypatch.setattr("metaxy_fs.storage.local.LocalStorage.list_directories", refuse)
    for plan in plans:
        ran(loaded(plan))


RUN = """
import pickle, sys
task = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps(getattr(task, sys.argv[1])()))
"""


def test_task_runs_in_a_process_that_knows_nothing_of_the_features(tmp_path, graph):
    store = filled(open_store(tmp_path), commits=3)
    [task] = store.plan_update("faces")
    sent = subprocess.run([sys.executable, "-c", RUN, "run"], input=pickle.dumps(task), capture_output=True, check=True)
    assert_equal(loaded(sent.stdout), store.resolve_update("faces"))


def test_what_a_job_retired_is_new_in_a_task_too(tmp_path, graph):
    store = filled(open_store(tmp_path), commits=3)
    store.materialize("faces", lambda batch: batch)
    videos = store.read_metadata("video", latest_only=True)
    store.retire("video", videos)
    store.materialize("faces", lambda batch: batch, retire_orphaned=True)
    store.write_metadata("video", videos)
    expected = store.resolve_update("faces")
    assert expected.new.height == videos.height
    assert_equal(together([travelled(task).run() for task in store.plan_update("faces")]), expected)


SECRETS = {"key": "AKIA-not-to-be-seen", "secret": "s3cr3t-not-to-be-seen", "token": "t0ken-not-to-be-seen"}


def test_plan_of_a_bucket_carries_no_credentials(s3_server, s3_bucket, graph):
    options = {
        **SECRETS,
        "client_kwargs": {"endpoint_url": s3_server.endpoint, "aws_session_token": "nested-not-to-be-seen"},
        "config_kwargs": {"proxies": {"http": "http://me:proxy-not-to-be-seen@localhost"}},
    }
    shown = {**options, "client_kwargs": {"endpoint_url": s3_server.endpoint}, "config_kwargs": {}}
    hidden = [b"not-to-be-seen", *(value.encode() for value in SECRETS.values())]
    store = filled(open_store(f"s3://{s3_bucket}/m", storage_options=shown), commits=2)
    [reading], [updating] = store.plan_read("video"), store.plan_update("faces")
    assert reading._logs
    for task in (reading, updating):
        packed = b"".join([pickle.dumps(task), zlib.decompress(task._plan), *map(zlib.decompress, task._files)])
        assert not [secret for secret in hidden if secret in packed]
        assert s3_server.endpoint.encode() in packed
        assert "not-to-be-seen" not in repr(task)
    assert_frame_equal(travelled(reading).read(storage_options=SECRETS), store.read_metadata("video"))
    # Those of the environment will do, too.
    assert_equal(travelled(updating).run(), store.resolve_update("faces"))
    with_secrets = open_store(f"s3://{s3_bucket}/m", storage_options=options)
    assert b"not-to-be-seen" not in pickle.dumps(with_secrets.storage.reference)


def test_task_takes_the_roots_of_a_store_that_is_given(tmp_path, graph):
    storage = FaultyStorage(MemoryStorage())
    store = filled(FilesystemMetadataStore(storage), commits=2)
    [task] = store.plan_read("video")
    assert_frame_equal(task.read(), store.read_metadata("video"))
    with pytest.raises(StorageError, match=r"task\.read\(store=store\)"):
        travelled(task).read()
    with pytest.raises(StorageError, match="not among the stores"):
        travelled(task).read(store=open_store(tmp_path))
    behind = open_store(tmp_path, store)
    assert_frame_equal(travelled(task).read(store=behind), store.read_metadata("video"))


def test_commits_that_came_in_late_are_told_from_those_that_were_planned(tmp_path, graph, monkeypatch):
    store, sent = in_flight(tmp_path)
    expected = store.read_metadata("video")
    [task] = store.plan_read("video")
    sent()
    vacuumed(tmp_path)
    assert_frame_equal(travelled(task).read(), expected, check_row_order=False)
    monkeypatch.setattr(seen, "_KNOWN", 0)
    store, sent = in_flight(tmp_path)
    [task] = store.plan_read("video")
    sent()
    vacuumed(tmp_path)
    with pytest.raises(StorageError, match="plan again"):
        travelled(task).read()


def in_flight(root):
    """Return a store, and what makes a commit visible whose time is before those that the store sees."""
    store = open_store(root)
    store.write_metadata("video", videos([1]))
    waiting = open_store(root)
    put, pending = waiting.storage._storage.put, []

    def hold(path, data):
        pending.append((path, data)) if "/_manifests/" in path else put(path, data)

    waiting.storage._storage.put = hold
    waiting.write_metadata("video", videos([2]))
    store.write_metadata("video", videos([3]))
    return open_store(root), lambda: [put(*each) for each in pending]


def vacuumed(root):
    store = open_store(root)
    compact(store, full=True)
    for _ in range(2):
        vacuum(store, **DONE)


def test_task_of_another_version_is_refused(tmp_path, graph, monkeypatch):
    [task] = filled(open_store(tmp_path), commits=1).plan_read("video")
    monkeypatch.setattr(tasks, "WRITER", "metaxy_fs 9.9.9")
    with pytest.raises(StorageError, match="same version everywhere"):
        travelled(task).read()


def test_damaged_file_is_named(tmp_path, graph):
    store = filled(open_store(tmp_path), commits=1)
    [task] = store.plan_read("video")
    [file] = tmp_path.glob("video/*/*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptObjectError) as caught:
        travelled(task).read()
    assert caught.value.feature == "video"


def test_features_that_cannot_be_divided_are_one_task(tmp_path):
    graph = FeatureGraph.from_specs(
        [
            FeatureSpec(key="frame", id_columns=["frame"]),
            FeatureSpec(key="video", id_columns=["video"], deps=[FeatureDep(key="frame", relation="aggregation")]),
        ]
    )
    store = open_store(tmp_path)
    frames = pl.DataFrame({"frame": range(3_000), "video": [number % 3 for number in range(3_000)]})
    with graph.use(), tiny_pieces():
        store.write_metadata("frame", frames.with_columns(data_version=pl.struct(default=pl.lit("v"))))
        [task] = store.plan_update("video", rows=1)
        assert_equal(travelled(task).run(), store.resolve_update("video"))


def test_plan_at_a_snapshot_leaves_out_what_was_compacted_with_it(tmp_path, graph):
    store = open_store(tmp_path)
    for by in "ab":
        store.write_metadata("video", videos([1, 2], by=pl.lit(by)))
    store.create_snapshot("then")
    store.write_metadata("video", videos([1, 3], by=pl.lit("later")))
    compact(store, full=True)
    for latest_only in (False, True):
        [task] = store.at("then").plan_read("video", latest_only=latest_only)
        expected = store.at("then").read_metadata("video", latest_only=latest_only)
        assert_frame_equal(travelled(task).read(), expected)


@pytest.mark.parametrize("rows", [100, 10_000])
def test_samples_of_an_earlier_definition_are_looked_at_where_the_local_call_does(tmp_path, graph, rows):
    store = filled(open_store(tmp_path), commits=5, rows=100)
    store.write_metadata("faces", store.resolve_update("faces").pending)
    store.retire("video", pl.DataFrame({"sample_id": [7, 8]}))
    containers = [ContainerSpec(code_version=2)]
    faster = FeatureSpec(key="faces", deps=[FeatureDep(key="video", columns=["path"])], containers=containers)
    with FeatureGraph.from_specs([FeatureSpec(key="video"), faster]).use():
        for done in (0, 200, 498):
            pending = store.resolve_update("faces").pending
            store.write_metadata("faces", pending.head(max(0, done - 500 + pending.height + 2)))
            expected = store.resolve_update("faces")
            with tiny_pieces():
                plan = store.plan_update("faces", rows=rows)
                assert (len(plan) > 1) == (rows == 100)
                assert_equal(together([travelled(task).run() for task in plan]), expected)
            # Orphaned samples of others count as long as some sample has no row under the present definition.
            assert expected.orphaned.height == (2 if done < 498 else 0)


def test_what_nobody_wrote_has_a_task_too(tmp_path):
    spec = FeatureSpec(key="faces", deps=[FeatureDep(key="video", optional=True)])
    store = open_store(tmp_path)
    with FeatureGraph.from_specs([FeatureSpec(key="video"), spec]).use():
        [task] = store.plan_update("faces")
        with pytest.raises(DependencyError):
            store.resolve_update("faces")
        with pytest.raises(DependencyError):
            travelled(task).run()


def test_what_has_no_plan_says_why(tmp_path, graph):
    store = open_store(tmp_path)
    with pytest.raises(DependencyError, match="no upstream features"):
        store.plan_update("video")
    for rows in (0, True, "all"):
        with pytest.raises(ValueError, match="about how many rows"):
            store.plan_read("video", rows=rows)
