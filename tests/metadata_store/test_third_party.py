"""A store of another kind is a handful of methods."""

import polars as pl
import pytest

from metaxy_fs.errors import WriteConflictError
from metaxy_fs.log.statistics import exact_in
from metaxy_fs.log.widening import conform, differ_in_order_alone, unify
from metaxy_fs.metadata_store import COMMITS, MetadataStore, Scan
from metaxy_fs.storage import MemoryStorage
from metaxy_fs.testing import StoreSuite


class ShelfStore(MetadataStore):
    """The least that a store has to be: appends on a shelf that outlives it, of which it never leaves out a row."""

    def __init__(self, shelf, *, name="", fallback_stores=()):
        super().__init__(fallback_stores=fallback_stores)
        self._shelf = shelf.setdefault(name, [])
        self._name = name
        self._snapshots = shelf.setdefault(("snapshots", name), MemoryStorage())
        self._first = 1_795_000_000_000_000 + 1_000_000 * len(shelf)  # no two stores have a commit of one name

    @property
    def snapshot_storage(self):
        return self._snapshots

    @property
    def location(self):
        return f"shelf {self._name!r}"

    def append_rows(self, append):
        earlier = self._held(append.spec.key, append.definition.partition)
        append = append.beside(held.rows for _, held in earlier)
        for _, held in earlier:
            if append.write_id is not None and held.write_id == append.write_id:
                if not have_same_rows(held.rows, append.rows):
                    raise WriteConflictError(
                        f"{append.write_id!r} names a commit of {held.rows.height} rows; these are others"
                    )
                return
        self._shelf.append((self._first + len(self._shelf), append))

    def scan_rows(self, query):
        held = self._held(query.key, query.partition)
        if query.at is not None:
            held = [(time, append) for time, append in held if sees(query.at, time, append)]
        if not held:
            return None
        files = [(self.location, append.rows.schema, exact_in(append.rows)) for _, append in held]
        schema = unify(files, columns=query.columns)
        frames = [
            conform(append.rows.lazy(), source=append.rows.schema, target=schema).with_columns(
                **({"_metaxy_partition": pl.lit(append.definition.partition)} if query.with_partition else {}),
                **({"_metaxy_commit": pl.lit(str(time)), "_metaxy_time": pl.lit(time)} if query.with_commits else {}),
            )
            for time, append in held
        ]
        return Scan(
            rows=pl.concat(frames),
            columns=list(dict.fromkeys(name for _, append in held for name in append.rows.columns)),
            id_columns=held[-1][1].spec.id_columns,
            definitions=list({append.definition.version: append.definition for _, append in held}.values()),
        )

    def stored_versions(self, key):
        return sorted({append.definition.partition for _, append in self._held(key, None)})

    def stored_features(self):
        return sorted({append.spec.key for _, append in self._shelf})

    def stored_commits(self, key):
        commits = [
            {
                "time": time,
                "commit": str(time),
                "rows": append.rows.height - append.retired,
                "retired": append.retired,
                "bytes": 0,
                "partition": append.definition.partition,
                "write_id": append.write_id,
                "writer": "a shelf",
                "compacted": False,
                "tags": append.tags_as_json,
            }
            for time, append in self._held(key, None)
        ]
        return pl.DataFrame(commits, schema=COMMITS)

    def _held(self, key, partition):
        found = [(time, append) for time, append in self._shelf if append.spec.key == key]
        return [(time, append) for time, append in found if partition in (None, append.definition.partition)]


def sees(moment, time, append):
    return moment.sees(partition=append.definition.partition, commit=str(time), time=time)


def have_same_rows(held, given):
    if not differ_in_order_alone(held.schema, given.schema):
        return False
    return held.equals(conform(given.lazy(), source=given.schema, target=held.schema).collect())


class TestShelfStore(StoreSuite):
    @pytest.fixture
    def make_store(self):
        shelf = {}
        return lambda name="", fallback_stores=(): ShelfStore(shelf, name=name, fallback_stores=fallback_stores)


def test_store_without_the_methods_cannot_be_made():
    class Nothing(MetadataStore):
        pass

    with pytest.raises(
        TypeError, match=r"append_rows.*location.*scan_rows.*stored_commits.*stored_features.*stored_versions"
    ):
        Nothing()
