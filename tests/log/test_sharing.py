"""What manifests have in common is in memory once, and unchanged."""

import polars as pl
import pytest

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import resolve as sharing
from metaxy_fs.log.commit import commit
from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows, write


def decoded(storage: MemoryStorage, name: str) -> Manifest:
    path = next(info.path for info in storage.list(PARTITION.manifests) if name in info.path)
    return decode_manifest(storage.get(path), partition=PARTITION, commit=name, name=path)


def loaded(storage: MemoryStorage) -> tuple[Manifest, ...]:
    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    return view.manifests


def test_manifests_share_what_is_equal() -> None:
    storage = MemoryStorage()
    write(storage, 1)
    write(storage, 2, 3)
    first, second = loaded(storage)
    for name in ("feature", "definition", "id_columns", "schema", "writer"):
        assert getattr(first, name) is getattr(second, name)
    leaves = [manifest.files[0].statistics[1].path for manifest in (first, second)]
    assert leaves[0] is leaves[1]


@pytest.mark.parametrize("most", [0, 10_000])
def test_manifests_are_what_was_stored(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(sharing, "_MOST", most)
    storage = MemoryStorage()
    clock = LamportClock()
    write(storage, 1, clock=clock)
    commit(storage, request(rows(2).with_columns(length=pl.lit(1.5)), write_id="b"), clock=clock)
    write(storage, 3, clock=clock)
    found = loaded(storage)
    assert len({bytes(manifest.schema) for manifest in found}) == 2
    assert [*found] == [decoded(storage, manifest.commit) for manifest in found]
