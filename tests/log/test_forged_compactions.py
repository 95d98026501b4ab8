"""A compaction that claims what it may not is refused."""

from collections.abc import Callable

import pytest

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.log import decoding as decoding_module
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.compactions import Fields, delete_covered, put_compaction, view_of

Change = Callable[[Fields], object]


def in_file(**fields: object) -> Change:
    """A change of what is said of the file that was written."""
    return lambda manifest: manifest["files"][1].update(fields)


def in_listed(**fields: object) -> Change:
    """A change of what is said of the file that is listed again."""
    return lambda manifest: manifest["files"][0].update(fields)


HOSTILE: dict[str, tuple[Change, str]] = {
    "covers nothing": (lambda m: m.update(covers=""), "covers nothing"),
    "covers left out": (lambda m: m.pop("covers"), "covers nothing"),
    "covers a list": (lambda m: m.update(covers=m["covers"].split(" ")), "cannot be decoded"),
    "covers a path": (lambda m: m.update(covers=m["covers"] + " ../x"), "no list of commits"),
    "covers a line end": (lambda m: m.update(covers=m["covers"] + "\n"), "no list of commits"),
    "covers another alphabet": (lambda m: m.update(covers=m["covers"] + " \u0430"), "no list of commits"),
    "covers with two spaces": (lambda m: m.update(covers=m["covers"].replace(" ", "  ")), "no list of commits"),
    "covers with a space at its end": (lambda m: m.update(covers=m["covers"] + " "), "no list of commits"),
    "covers more than its table": (lambda m: m.update(covers=m["covers"] + " a"), "has a table of 2"),
    "no table": (lambda m: m.pop("commits"), "no table"),
    "table elsewhere": (lambda m: m["commits"].update(name="../x.parquet"), "no table"),
    "table above its directory": (lambda m: m["commits"].update(name="_commits/../x.table"), "no table"),
    "table below its directory": (lambda m: m["commits"].update(name="_commits/x/y.table"), "no table"),
    "another commit": (lambda m: m.update(commit="20200101T000000.000000Z-0"), "says that it is commit"),
    "another feature": (lambda m: m.update(feature=["audio"]), "belongs to the feature"),
    "another version": (lambda m: m["definition"].update(version="f" * 64), "belongs to the data version"),
    "wrong count": (lambda m: m.update(rows=7), "counts 7 rows"),
    "unknown field": (lambda m: m.update(surprise=1), "cannot be decoded"),
    "older than what it covers": (lambda m: m.update(time=1), "not older than itself"),
    "file elsewhere": (in_file(name="../x.parquet"), "plain name"),
    "file among the tables": (in_file(name="_commits/x.table"), "plain name"),
    "schema that is none": (lambda m: m["schemas"].append([["x", "no such type"]]), "no schema that can be read"),
    "schema out of range": (in_file(schema=1), "schema 1 of 1"),
    "negative schema": (in_file(schema=-1), "cannot be decoded"),
    "file of no commit": (in_file(first=None), "neither"),
    "file of one commit and many": (in_file(commit="a", time=1), "neither"),
    "file that ends before it begins": (lambda m: m["files"][1].update(first=[2, "b"], last=[1, "a"]), "ends before"),
    "file of half a key": (in_file(first=[1]), "cannot be decoded"),
    "commit without time": (in_listed(time=None), "neither"),
    "commit of a bad name": (in_listed(commit="../a"), "neither"),
    "listed file that repeats": (in_listed(repeats=True), "said of many"),
    "negative offset": (in_listed(offset=-1), "cannot be decoded"),
}


def forged(change: Change) -> MemoryStorage:
    storage = MemoryStorage()
    appends = [write(storage, 1), write(storage, 2)]
    put_compaction(storage, appends, listed_again=[appends[0].commit], change=change)
    return storage


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forged_compaction_is_refused_by_name(name: str) -> None:
    change, reason = HOSTILE[name]
    with pytest.raises(CorruptObjectError, match=reason) as caught:
        view_of(forged(change))
    assert "memory/video.processing/0123456789abcdef/_manifests/compactions/" in str(caught.value)


def test_an_untouched_compaction_is_accepted() -> None:
    assert view_of(forged(lambda _fields: None)).commits


def test_a_compaction_of_a_newer_format_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedFormatError, match="Upgrade metaxy_fs"):
        view_of(forged(lambda fields: fields.update(format_version=2, new_field=1)))


def test_the_manifest_of_a_write_does_not_pass_for_a_compaction() -> None:
    storage = MemoryStorage()
    append = write(storage, 1)
    data = storage.get(PARTITION.append_manifest(append.commit))
    storage.put(PARTITION.compaction_manifest(append.commit), data)
    with pytest.raises(CorruptObjectError, match="covers nothing"):
        view_of(storage)


@pytest.mark.parametrize("name", ["x.txt", "x y.json", "x/y.json", "x.json.bak"])
def test_a_foreign_object_among_compactions_is_named(name: str) -> None:
    storage = MemoryStorage()
    write(storage, 1)
    storage.put(f"{PARTITION.manifests}/compactions/{name}", b"{}")
    with pytest.raises(CorruptObjectError, match="is no manifest"):
        view_of(storage)


def test_an_oversized_compaction_is_refused_and_a_large_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    appends = [write(storage, 1)]
    put_compaction(storage, appends)
    delete_covered(storage, appends)
    monkeypatch.setattr(decoding_module, "MAX_MANIFEST_BYTES", 100)
    assert view_of(storage).commits
    monkeypatch.setattr(decoding_module, "MAX_COMPACTION_BYTES", 100)
    with pytest.raises(CorruptObjectError, match="more than the 100"):
        view_of(storage)
