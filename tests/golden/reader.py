"""A reader that is written from `docs/format.md` alone, without the library.

This is a reader of the format, written from that page with pyarrow and the standard library alone. It gets every file
whole and sorts every row in Python. The numbers in comments are the sections that say so.
"""

import base64
import hashlib
import io
import itertools
import json
import re
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

Json = dict[str, Any]
Key = tuple[int, str]
"""The time and the id of a commit, by which commits are ordered (7)."""

FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*")
VERSION = re.compile(r"[0-9a-f]{16}")
COMMIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
DATA_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.parquet")
TABLE = re.compile(rf"_commits/{COMMIT.pattern}\.table|{DATA_FILE.pattern}")
STRAY_DIRECTORY = re.compile(r"[.~#].*|.*_\$folder\$|@eaDir", re.DOTALL)
STRAY_NAME = re.compile(
    r".*~|.*\.partial|.*\.tmp|.*_\.gstmp|.*\.[0-9a-f]{8}|thumbs\.db|desktop\.ini", re.DOTALL | re.IGNORECASE
)
HOUR = 3_600_000_000
TAG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MARKS = ["_metaxy_commit", "_metaxy_time", "_metaxy_ordinal"]
RETIRED = "_metaxy_retired"


class NoTypeError(Exception):
    """A column has no type that holds the values of all files (5)."""


class Rows(NamedTuple):
    """What is read: the schema as the format writes it, and for each row its commit and its values."""

    schema: list[Any]
    commits: list[Key]
    values: list[Json]


class _File(NamedTuple):
    """A data file that counts: its schema, the commit that decides the place of its columns, and its rows."""

    schema: list[Any]
    first: Key
    statistics: list[Json]
    count: int
    rows: list[tuple[int, str, int, Json]]


def features(root: Path) -> dict[str, list[str]]:
    """Return the versions of each feature that there is: those with any manifest (2)."""
    found = {}
    for feature in sorted(root.iterdir()):
        if feature.is_dir() and FEATURE.fullmatch(feature.name):
            versions = [each.name for each in sorted(feature.iterdir()) if VERSION.fullmatch(each.name)]
            if held := [version for version in versions if _manifests(feature / version)]:
                found[feature.name] = held
    return found


def read(root: Path, feature: str, versions: Iterable[str]) -> Rows:
    """Return the rows of some data versions of a feature."""
    return _as_one([file for version in versions for file in _files(root / feature / version, wanted=None)])


def shown(rows: Rows) -> Rows:
    """Return all rows as a reader gives them: without retired rows (4)."""
    return _without_retired(rows, range(len(rows.values)))


def latest(rows: Rows, id_columns: Sequence[str]) -> Rows:
    """Return the latest row of each sample that is not retired, in the order of these rows (4, 7)."""
    last = {tuple(row[name] for name in id_columns): place for place, row in enumerate(rows.values)}
    return _without_retired(rows, sorted(last.values()))


def _without_retired(rows: Rows, places: Iterable[int]) -> Rows:
    kept = [place for place in places if not rows.values[place].get(RETIRED)]
    values = [rows.values[place] for place in kept]
    return Rows(
        [[name, written] for name, written in rows.schema if name != RETIRED],
        [rows.commits[place] for place in kept],
        [{name: value for name, value in row.items() if name != RETIRED} for row in values],
    )


class Commit(NamedTuple):
    """What is known of a commit: how many rows it has that are not retired, how many that are, and its tags."""

    time: int
    commit: str
    rows: int
    retired: int
    write_id: str | None
    tags: dict[str, str]


def history(root: Path, feature: str, versions: Iterable[str]) -> list[Commit]:
    """Return the commits of some data versions of a feature in commit order, from manifests and tables (9.3)."""
    found: dict[tuple[str, str], Commit] = {}
    for version in versions:
        partition = root / feature / version
        compactions = _listed(partition, "compactions")
        for manifest in compactions.values():
            for row in _commit_table(partition, manifest):
                tags = json.loads(row.get("tags") or "{}")
                found.setdefault((version, row["commit"]), _commit(row, row.get("retired", 0), tags))
        for commit, manifest in _listed(partition, "appends").items():
            found.setdefault((version, commit), _commit(manifest, manifest.get("retired", 0), manifest.get("tags", {})))
    return sorted(found.values(), key=lambda commit: (commit.time, commit.commit))


def _commit(said: Json, retired: int, tags: dict[str, str]) -> Commit:
    assert 0 <= retired <= said["rows"]
    assert len(tags) <= 32
    assert all(TAG_NAME.fullmatch(name) and len(value) <= 1_000 for name, value in tags.items())
    return Commit(said["time"], said["commit"], said["rows"] - retired, retired, said.get("write_id"), tags)


def read_commits(root: Path, feature: str, version: str, commits: set[str]) -> Rows:
    """Return the rows of some commits of one data version, as if there were no others."""
    return _as_one(list(_files(root / feature / version, wanted=commits)))


def read_at(root: Path, snapshot: str, feature: str, version: str | None) -> Rows:
    """Return the rows of one data version, or of all, that a snapshot sees (11)."""
    content = _json((root / "_snapshots" / f"{snapshot}.json").read_bytes())
    [entry] = [each for each in content["stores"][0]["features"] if ".".join(each["feature"]) == feature]
    pinned = [each for each in entry["partitions"] if version in (None, each["version"])]
    files = []
    for each in pinned:
        files += _files(root / feature / each["version"], wanted=set(each["commits"].split(" ")))
    schema = entry["schema"] if version is None else pinned[0]["schema"]
    # The types depend on statistics that may have been lost since; the columns and their order do not.
    assert [name for name, _ in _joined(sorted(files, key=_first))] == [name for name, _ in schema]
    return _as_one(files, schema=schema)


def _manifests(partition: Path) -> list[Path]:
    """Return the manifests of a partition, and refuse one that holds anything else but stray files (2, 3.4)."""
    found = []
    for path in sorted((partition / "_manifests").rglob("*")):
        if path.is_dir() or _is_stray(path, partition):
            continue
        kind, name = path.relative_to(partition / "_manifests").parts
        assert kind in ("appends", "compactions")
        assert COMMIT.fullmatch(name.removesuffix(".json"))
        assert name.endswith(".json")
        found.append(path)
    return found


def _is_stray(path: Path, partition: Path) -> bool:
    parts = path.relative_to(partition).parts
    return any(STRAY_DIRECTORY.fullmatch(part) for part in parts) or STRAY_NAME.fullmatch(path.name) is not None


# Which manifests count (9.4).


def _files(partition: Path, *, wanted: set[str] | None) -> Iterator[_File]:
    """Yield the files of a partition that count, with those of their rows that do."""
    appends, compactions = _listed(partition, "appends"), _listed(partition, "compactions")
    covers = {commit: set(manifest["covers"].split(" ")) for commit, manifest in compactions.items()}
    living = {
        commit: covered
        for commit, covered in covers.items()
        if not any(covered < other or (covered == other and commit < name) for name, other in covers.items())
    }
    held: set[str] = set()
    for commit, manifest in appends.items():
        if not any(commit in covered for covered in covers.values()) and (wanted is None or commit in wanted):
            held.add(commit)
            yield from _append_files(partition, manifest)
    answered: set[str] = set()
    for commit in sorted(living):
        counting = living[commit] - answered
        answered |= living[commit]
        counting = counting if wanted is None else counting & wanted
        held |= counting
        yield from _compaction_files(partition, compactions[commit], counting, is_whole=wanted is None)
    if wanted is not None and wanted - held:
        raise ValueError(f"{partition} lacks the commits {wanted - held}")


def _listed(partition: Path, kind: str) -> dict[str, Json]:
    """Return the manifests of a kind by commit, checked as far as a trusted root needs (3.4)."""
    found = {}
    for path in _manifests(partition):
        if path.parent.name != kind:
            continue
        manifest = _json(path.read_bytes())
        version, feature = path.parents[2].name, path.parents[3].name
        assert COMMIT.fullmatch(manifest["commit"])
        assert path.name == f"{manifest['commit']}.json"
        assert ".".join(manifest["feature"]) == feature
        assert manifest["definition"]["version"][:16] == version
        assert manifest["rows"] == sum(file["rows"] for file in manifest["files"])
        counts = {"time": time_that_counts(manifest, path, partition)} if kind == "appends" else {}
        found[manifest["commit"]] = manifest | counts
    return found


def time_that_counts(manifest: Json, path: Path, partition: Path) -> int:
    """Return the time at which a write counts, unless its own is far ahead of when it was written (7)."""
    claimed: int = manifest["time"]
    present, written = time.time_ns() // 1_000, path.stat().st_mtime_ns // 1_000
    horizon = present + 366 * 24 * HOUR
    if min(claimed, written) > horizon and any(
        each.stat().st_mtime_ns // 1_000 <= horizon for each in _manifests(partition)
    ):
        return claimed // 1_000
    return written if claimed > written + 36 * HOUR else claimed


def _json(data: bytes) -> Json:
    seal = re.search(rb',"sha256":"([0-9a-f]{64})"}$', data)  # 3.3
    if seal:
        assert hashlib.sha256(data[: seal.start()]).hexdigest().encode() == seal[1]
    content: Json = json.loads(data)
    if content["format_version"] != 1:
        raise ValueError(f"this reader knows format version 1, not {content['format_version']}")
    return content


# Their files.


def _append_files(partition: Path, manifest: Json) -> Iterator[_File]:
    offset = 0
    for entry in manifest["files"]:
        key = (manifest["time"], manifest["commit"])
        yield _single(partition, entry, manifest["schema"], key, offset)
        offset += entry["rows"]


def _compaction_files(partition: Path, manifest: Json, counting: set[str], *, is_whole: bool) -> Iterator[_File]:
    """Yield the files of a compaction, with the rows of the commits that it answers for and that are wanted."""
    if not counting:
        return
    schemas = [manifest["schema"], *manifest.get("schemas", [])]
    firsts = {} if is_whole else _firsts(partition, manifest, counting)
    for entry in manifest["files"]:
        number = entry.get("schema", 0)
        if "commit" in entry:
            if entry["commit"] in counting:
                key = (entry["time"], entry["commit"])
                yield _single(partition, entry, schemas[number], key, entry.get("offset", 0))
        elif is_whole or number in firsts:
            first = tuple(entry["first"]) if is_whole else firsts[number]
            rows = _rewritten_rows(_table(partition, entry, schemas[number], marks=MARKS), counting)
            yield _File(schemas[number], first, entry.get("statistics", []), entry["rows"], rows)


def _firsts(partition: Path, manifest: Json, counting: set[str]) -> dict[int, Key]:
    """Return the first commit of each schema among some, which the commit table tells (9.3, 11)."""
    firsts: dict[int, Key] = {}
    for row in _commit_table(partition, manifest):
        if row["commit"] in counting:
            firsts.setdefault(row["schema"], (row["time"], row["commit"]))
    return firsts


def _commit_table(partition: Path, manifest: Json) -> list[Json]:
    table: list[Json] = pq.read_table(io.BytesIO(_checked(partition, manifest["commits"], named=TABLE))).to_pylist()
    assert [row["commit"] for row in table] == manifest["covers"].split(" ")
    return table


def _single(partition: Path, entry: Json, schema: list[Any], key: Key, offset: int) -> _File:
    table = _table(partition, entry, schema, marks=[])
    rows = [(*key, offset + place, row) for place, row in enumerate(table.to_pylist())]
    return _File(schema, key, entry.get("statistics", []), entry["rows"], rows)


def _rewritten_rows(table: pa.Table, counting: set[str]) -> list[tuple[int, str, int, Json]]:
    commits, times, ordinals = (table.column(name).to_pylist() for name in MARKS)
    values = table.drop_columns(MARKS).to_pylist()
    rows = zip(times, commits, ordinals, values, strict=True)
    return [row for row in rows if row[1] in counting]


def _table(partition: Path, entry: Json, schema: list[Any], *, marks: Sequence[str]) -> pa.Table:
    """Return a data file (4), whose columns are those of its schema, and of commits (9.2)."""
    table = pq.read_table(io.BytesIO(_checked(partition, entry)))
    assert table.num_rows == entry["rows"]
    assert table.column_names == [name for name, _ in schema] + list(marks)
    _check_provenance(table, _content_containers(partition))
    return table


def _content_containers(partition: Path) -> set[str]:
    """Return the containers that the writers of rows version by content (3.2)."""
    path = partition / "_definition.json"
    containers = _json(path.read_bytes())["spec"]["containers"] if path.exists() else []
    content = [each for each in containers if each.get("versioned_by", "provenance") == "content"]
    return {"_".join(each["key"]["parts"]) for each in content}


def _check_provenance(table: pa.Table, content: set[str]) -> None:
    """Refuse rows that lack what they were made from, or have other versions than follow from it (4)."""
    assert ("provenance" in table.column_names) is bool(content) or RETIRED in table.column_names
    for row in table.to_pylist() if content else []:
        if not row.get(RETIRED):
            version, provenance = row["data_version"], row["provenance"]
            assert list(version) == list(provenance)
            assert all(text and "|" not in text for text in provenance.values())
            assert all(version[name] == provenance[name] for name in version if name not in content)


def _checked(partition: Path, entry: Json, *, named: re.Pattern[str] = DATA_FILE) -> bytes:
    assert named.fullmatch(entry["name"])
    data = (partition / entry["name"]).read_bytes()
    assert len(data) == entry["bytes"]
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    assert entry.get("footer") in (None, hashlib.sha256(footer).hexdigest()[:16])
    if "columns" in entry:
        _check_columns(data, base64.b64decode(entry["columns"], validate=True), end=len(data) - len(footer))
    return data


def _check_columns(data: bytes, described: bytes, *, end: int) -> None:
    """Compare the columns of each row group with their checksums (3.3)."""
    found = pq.read_metadata(io.BytesIO(data))
    names = [found.schema.column(place).path.split(".")[0] for place in range(found.num_columns)]
    firsts = [place for place, name in enumerate(names) if place == 0 or names[place - 1] != name]
    leaves = [found.row_group(group).column(place) for group in range(found.num_row_groups) for place in firsts]
    starts = [leaf.dictionary_page_offset or leaf.data_page_offset for leaf in leaves]
    spans = [data[start:stop] for start, stop in itertools.pairwise([*starts, end])]
    assert starts[:1] in ([], [4])
    assert described == b"".join(struct.pack(">II", len(span), zlib.crc32(span)) for span in spans)


# One frame of all (5, 7).


def _as_one(files: Sequence[_File], *, schema: list[Any] | None = None) -> Rows:
    files = sorted(files, key=_first)
    joined = _joined(files) if schema is None else schema
    rows = sorted((row for file in files for row in file.rows), key=lambda row: row[:3])
    return Rows(
        joined,
        [(time, commit) for time, commit, _, _ in rows],
        [{name: _conformed(row.get(name), written) for name, written in joined} for *_, row in rows],
    )


def _first(file: _File) -> Key:
    return file.first


def _joined(files: Sequence[_File]) -> list[Any]:
    """Return the columns of all files in the order of their first appearance, each of the type that holds all."""
    names = dict.fromkeys(name for file in files for name, _ in file.schema)
    return [
        [name, _join([(dict(file.schema)[name], file) for file in files if name in dict(file.schema)], (name,))]
        for name in names
    ]


def _join(types: Sequence[tuple[Any, _File]], path: tuple[str, ...]) -> Any:
    """Return the narrowest type that holds the values of all; each comes with the file that has it."""
    typed = [(written, file) for written, file in types if written != "null"]
    distinct = [written for place, (written, _) in enumerate(typed) if written not in [w for w, _ in typed[:place]]]
    if len(distinct) < 2:
        return distinct[0] if distinct else "null"
    if all(isinstance(written, str) and re.fullmatch(r"u?int\d+|float\d+", written) for written in distinct):
        return _join_numbers(typed, path)
    kinds = {written if isinstance(written, str) else written["type"] for written in distinct}
    if kinds <= {"string", "categorical", "enum"}:
        return "string"
    if len(kinds) > 1 or isinstance(distinct[0], str):
        raise NoTypeError(f"{path} has no type that holds {distinct}")
    return _join_alike(typed, distinct, path)


def _join_alike(typed: Sequence[tuple[Any, _File]], distinct: Sequence[Json], path: tuple[str, ...]) -> Any:
    """Join objects of one `type`."""
    one = distinct[0]
    match one["type"]:
        case "datetime" | "duration":
            unit = max((each["unit"] for each in distinct), key=["ms", "us", "ns"].index)
            assert len({each.get("zone") for each in distinct}) == 1
            return {**one, "unit": unit}
        case "decimal":
            scale = max(each["scale"] for each in distinct)
            precision = max(each["precision"] - each["scale"] for each in distinct) + scale
            assert precision <= 38
            return {**one, "precision": precision, "scale": scale}
        case "list" | "array":
            assert len({each.get("width") for each in distinct}) == 1
            return {**one, "inner": _join([(each["inner"], file) for each, file in typed], (*path, "no leaf"))}
        case "struct":
            names = dict.fromkeys(name for each in distinct for name, _ in each["fields"])
            fields = [
                [name, _join([(f[name], file) for f, file in _fields(typed) if name in f], (*path, name))]
                for name in names
            ]
            return {**one, "fields": fields}
    raise NoTypeError(f"{path} has no type that holds {distinct}")


def _fields(typed: Sequence[tuple[Any, _File]]) -> Iterator[tuple[Json, _File]]:
    return ((dict(each["fields"]), file) for each, file in typed)


def _join_numbers(typed: Sequence[tuple[str, _File]], path: tuple[str, ...]) -> str:
    bits = [(written.rstrip("0123456789"), int(re.sub(r"\D", "", written)), file) for written, file in typed]
    signed = [size for kind, size, _ in bits if kind == "int"]
    unsigned = [size for kind, size, _ in bits if kind == "uint"]
    floats = [size for kind, size, _ in bits if kind == "float"]
    if not floats:
        if not signed:
            return f"uint{max(unsigned)}"
        widest = max([*signed, *(2 * size for size in unsigned)])
        assert widest <= 128
        return f"int{widest}"
    # The binary digits of the integers that a float holds exactly.
    digits = {16: 11, 32: 24, 64: 53}
    needed = [digits[size] for size in floats]
    for kind, size, file in bits:
        held = size - 1 if kind == "int" else size
        if kind != "float" and held > 53 and not _is_within(file, path):
            raise NoTypeError(f"{path} holds integers of which some may be no floats")
        needed += [] if kind == "float" else [min(held, 53)]
    return next(f"float{size}" for size, held in digits.items() if held >= max(needed))


def _is_within(file: _File, path: tuple[str, ...]) -> bool:
    """Whether statistics prove that all integers of a leaf lie within 2^53 (6)."""
    leaf = next((leaf for leaf in file.statistics if tuple(leaf["path"]) == path), None)
    if leaf is None:
        return False
    bounds = [leaf.get("min"), leaf.get("max")]
    return leaf["nulls"] == file.count or all(isinstance(bound, int) and abs(bound) <= 2**53 for bound in bounds)


def _conformed(value: Any, written: Any) -> Any:
    """Return a value as its column's joined type has it: fields that its file lacks are null."""
    if value is None or isinstance(written, str):
        return float(value) if isinstance(value, int) and str(written).startswith("float") else value
    if written["type"] == "struct":
        fields: Mapping[str, Any] = value
        return {name: _conformed(fields.get(name), inner) for name, inner in written["fields"]}
    if written["type"] in ("list", "array"):
        return [_conformed(item, written["inner"]) for item in value]
    return value
