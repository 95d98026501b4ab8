"""Verify that data files hold what their manifests say, and compactions every row of their commits once.

Each row of a file that a compaction has written says whose it is, and the commit table says how many rows each commit
has. So the files of a compaction can be counted against the table, without what they were made from.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.ids import AHEAD
from metaxy_fs.log.chunks import COMMIT_COLUMNS, count_retired
from metaxy_fs.log.manifest import CommitHeader, DataFile, FileHeader, Manifest
from metaxy_fs.log.parquet import (
    FOOTER_KEY,
    check_row_groups,
    checksums,
    content_digest,
    describe_columns,
    footer_bytes,
    footer_digest,
)
from metaxy_fs.log.schema import column, decode_schema
from metaxy_fs.log.statistics import unfounded
from metaxy_fs.log.verified_io import FOREIGN, RESTORE, Finding
from metaxy_fs.markup import count
from metaxy_fs.reserved import COMMIT, DATA_VERSION, ORDINAL, RETIRED, TIME
from metaxy_fs.reserved import PREFIX as RESERVED

Ends = tuple[tuple[Any, ...], tuple[Any, ...]]
"""The ids of the first and of the last row."""


class Contents(NamedTuple):
    """What was found in one data file.

    Attributes:
        findings: What is not as it should be.
        pages: The sha256 of the file up to its footer; None if the bytes cannot be trusted.
        ends: The ids of its first and its last row; None if it has none.
        commits: What it holds of each commit, where a compaction lists it (see `COUNTS`).
        retired: How many of its rows retire a sample.
    """

    findings: tuple[Finding, ...]
    pages: bytes | None = None
    ends: Ends | None = None
    commits: pl.DataFrame | None = None
    retired: int = 0


def check_contents(data: bytes, *, manifest: Manifest, file: DataFile, path: str) -> Contents:
    """Compare the bytes of a data file with all that the manifest says of them."""
    if len(data) != file.bytes:
        return _damaged(path, f"has {len(data)} bytes, {file.bytes} were committed")
    pages, whole = checksums(data)
    if whole != file.sha256:
        return _damaged(path, "does not have the checksum that its manifest gives")
    try:
        check_row_groups(data, name=path)
        rows, footer = pl.read_parquet(data), pl.read_parquet_metadata(data)
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001
        return _foreign(path, f"is no Parquet file that can be read: {' '.join(str(error).split())[:200]}")
    findings = [Finding(path, "error", problem, FOREIGN) for problem in _problems(rows, manifest=manifest, file=file)]
    if file.footer not in ("", footer_digest(data[-footer_bytes(data) :])):
        findings.append(Finding(path, "error", "has another footer than its manifest gives", FOREIGN))
    if file.columns not in (b"", describe_columns(data, rows.columns)):
        findings.append(Finding(path, "error", "has other columns than the checksums in its manifest", FOREIGN))
    findings += _footer_findings(footer, manifest, file, path=path)
    is_right = all(finding.severity != "error" for finding in findings)
    commits = _commits_in(rows, file) if manifest.covers and is_right else None
    retired = count_retired(rows) if is_right else 0
    return Contents(tuple(findings), pages, _ends(rows, manifest.id_columns), commits, retired)


def check_commit(manifest: Manifest, found: Sequence[Contents], *, path: str) -> Iterator[Finding]:
    """Yield what is wrong with the files of one write together, if each was found whole."""
    pages = [contents.pages for contents in found if contents.pages is not None]
    if len(pages) < len(manifest.files):
        return
    if content_digest(bytes(manifest.schema), pages) != manifest.digest:
        yield Finding(path, "error", "gives another digest than its data files have", FOREIGN)
    if (retired := sum(contents.retired for contents in found)) != manifest.retired:
        problem = f"says that {manifest.retired} of its rows retire a sample, in its data files {retired} do"
        yield Finding(path, "error", problem, FOREIGN)
    ends = [contents.ends for contents in found if contents.ends is not None]
    if any(not before[1] < after[0] for before, after in pairwise(ends)):
        yield Finding(path, "error", "lists data files whose ids are not in order from one to the next", FOREIGN)


def _damaged(path: str, problem: str) -> Contents:
    return Contents((Finding(path, "error", problem, RESTORE),))


def _foreign(path: str, problem: str) -> Contents:
    return Contents((Finding(path, "error", problem, FOREIGN),))


def _problems(rows: pl.DataFrame, *, manifest: Manifest, file: DataFile) -> Iterator[str]:
    if rows.height != file.rows:
        yield f"has {count(rows.height, 'row')}, its manifest says {file.rows}"
    columns = decode_schema(manifest.schema_of(file))
    if list(rows.schema.items()) != [*columns.items(), *(COMMIT_COLUMNS.items() if _is_rewritten(file) else ())]:
        yield f"has the columns {dict(rows.schema)}, which are not those that its manifest gives"
        return
    if reserved := [name for name in columns if name.startswith(RESERVED) and not _tells_retired(name, columns)]:
        yield f"has columns of reserved names: {', '.join(reserved)}"
    if wrong := unfounded(rows, file.statistics):
        yield f"has other values than its statistics claim of {', '.join('.'.join(leaf) for leaf in wrong)}"
    yield from _id_problems(rows, manifest.id_columns, file)
    yield from _version_problems(rows, manifest)


def _id_problems(rows: pl.DataFrame, id_columns: Sequence[str], file: DataFile) -> Iterator[str]:
    if missing := [name for name in id_columns if name not in rows.columns]:
        yield f"lacks the id columns {', '.join(missing)}"
        return
    ids = rows.select(map(column, id_columns))
    if any(ids.null_count().row(0)):
        yield "has rows without an id"
    if not file.repeats and ids.is_duplicated().any():
        yield "has several rows of one id"
    if not ids.equals(ids.sort(pl.all())):
        yield "has rows that are not sorted by their ids"
    elif _is_rewritten(file):
        yield from _rewritten_problems(rows, id_columns, file)


def _version_problems(rows: pl.DataFrame, manifest: Manifest) -> Iterator[str]:
    """Versions are hashed over, so one that is null, empty or ambiguous would give another feature a wrong version."""
    versions_type = rows.schema.get(DATA_VERSION)
    fields = {field.name: field.dtype for field in versions_type.fields} if isinstance(versions_type, pl.Struct) else {}
    if set(fields) != set(manifest.definition.containers) or any(dtype != pl.String() for dtype in fields.values()):
        yield f"has no data_version with a string for each of {', '.join(manifest.definition.containers)}"
        return
    if rows.schema.get(RETIRED) == pl.Boolean():
        is_retired = rows.get_column(RETIRED).fill_null(value=False)
        if rows.filter(is_retired).get_column(DATA_VERSION).count():
            yield "has rows that retire a sample and yet have a version"
        rows = rows.filter(~is_retired)
    versions = rows.select(pl.col(DATA_VERSION).struct.unnest()) if fields else pl.DataFrame()
    for name, values in versions.to_dict().items():
        if values.null_count() or (values == "").any() or values.str.contains("|", literal=True).any():
            yield f"has versions of {name!r} that are null, empty or hold a '|'"


def _tells_retired(name: str, columns: pl.Schema) -> bool:
    return name == RETIRED and columns[name] == pl.Boolean


def _footer_findings(footer: dict[str, str], manifest: Manifest, file: DataFile, *, path: str) -> Iterator[Finding]:
    """Yield what would keep a lost manifest from being rebuilt as it was."""
    try:
        # The file of a compaction says nothing of its place: the footer of the commit table does that.
        kind = CommitHeader if _is_rewritten(file) else FileHeader
        header = msgspec.json.decode(footer.get(FOOTER_KEY, ""), type=kind)
    except (msgspec.MsgspecError, RecursionError):
        problem = "does not say in its footer which file of its commit it is, so a lost manifest could not be rebuilt"
        yield Finding(path, "note", problem, "Nothing has to be done.")
        return
    expected = _expected_header(manifest, file)
    # A compaction wrote down when the commit counts, or it was prepared, and counts as of the commit of its group.
    if file.time is not None and not header.time - AHEAD <= file.time < header.time:
        del expected["time"]
    if differing := [name for name, value in expected.items() if _plain(getattr(header, name)) != value]:
        problem = f"says something else in its footer of {', '.join(differing)} than its manifest"
        yield Finding(path, "warning", problem, "One of the two was changed; find out who did it.")


def _expected_header(manifest: Manifest, file: DataFile) -> dict[str, object]:
    """Return what a manifest knows of the header of a data file."""
    header = {name: _plain(getattr(manifest, name)) for name in CommitHeader.__struct_fields__}
    if not manifest.covers:
        return header
    known = {name: header[name] for name in ("format_version", "feature", "definition", "id_columns")}
    if file.commit is None:  # written by this compaction, or by one that it covers
        return known
    return known | {"commit": file.commit, "time": file.time, "schema": manifest.schema_of(file)}


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, msgspec.Raw) else value


def _ends(rows: pl.DataFrame, id_columns: Sequence[str]) -> Ends | None:
    if not rows.height or any(name not in rows.columns for name in id_columns):
        return None
    ids = rows.select(map(column, id_columns))
    return ids.row(0), ids.row(-1)


COUNTS: Final = pl.Schema(
    {
        COMMIT: pl.String(),
        TIME: pl.Int64(),
        "rows": pl.Int64(),
        "retired": pl.Int64(),
        "first": pl.Int64(),
        "last": pl.Int64(),
    }
)
"""What a file holds of a commit: how many rows, how many of them retire a sample, the first and the last ordinal."""


def _is_rewritten(file: DataFile) -> bool:
    """Whether a compaction has written a file, so that each row says whose it is."""
    return file.first is not None


def _rewritten_problems(rows: pl.DataFrame, id_columns: Sequence[str], file: DataFile) -> Iterator[str]:
    """Yield what is wrong with the commits of the rows of a file that a compaction has written."""
    places = rows.select(*COMMIT_COLUMNS)
    if any(places.null_count().row(0)):
        yield "has rows that do not say whose they are"
        return
    if places.select(COMMIT, ORDINAL).is_duplicated().any():
        yield "has several rows of one place in their commit"
    keys = places.select(TIME, COMMIT).unique().sort(TIME, COMMIT)
    if keys.height and not (file.first <= keys.row(0) and keys.row(-1) <= file.last):  # type: ignore[operator]
        yield f"has rows of other commits than those from {file.first} to {file.last}"
    ordered = rows.select(*map(column, id_columns), TIME, COMMIT, ORDINAL)
    if not ordered.equals(ordered.sort(pl.all())):
        yield "has rows of one id that are not in commit order"
    in_order = places.select(TIME, COMMIT, ORDINAL)
    if file.ordered and not in_order.equals(in_order.sort(pl.all())):
        yield "has rows that are not in commit order, as its manifest claims"


def _commits_in(rows: pl.DataFrame, file: DataFile) -> pl.DataFrame:
    """Return what a file that a compaction lists holds of each commit (see `COUNTS`)."""
    if not _is_rewritten(file):
        ends = (file.offset, file.offset + rows.height - 1)
        whole = (file.commit, file.time, rows.height, count_retired(rows), *ends)
        return pl.DataFrame([whole] if rows.height else [], schema=COUNTS, orient="row")
    ordinal = pl.col(ORDINAL).cast(pl.Int64)
    retired = pl.col(RETIRED).sum().cast(pl.Int64) if RETIRED in rows.columns else pl.lit(0, pl.Int64)
    return rows.group_by(COMMIT, TIME).agg(
        pl.len().cast(pl.Int64).alias("rows"),
        retired.alias("retired"),
        ordinal.min().alias("first"),
        ordinal.max().alias("last"),
    )


def check_compaction(
    manifest: Manifest, table: pl.DataFrame, parts: Sequence[tuple[DataFile, Contents]], *, path: str
) -> Iterator[Finding]:
    """Yield what is wrong with a compaction as a whole, given its commit table and what is in all of its files."""
    for problem in [*_miscounts(table, parts), *_overlaps(parts)]:
        yield Finding(path, "error", problem, FOREIGN)
    digests = "".join(sorted(table.get_column("digest")))
    if hashlib.sha256(digests.encode()).hexdigest() != manifest.digest:
        yield Finding(path, "error", "gives another digest than its commits have", FOREIGN)


def _miscounts(table: pl.DataFrame, parts: Sequence[tuple[DataFile, Contents]]) -> Iterator[str]:
    counted = pl.concat([COUNTS.to_frame(), *(found.commits for _, found in parts if found.commits is not None)])
    counted = counted.group_by(COMMIT, TIME).agg(
        pl.col("rows", "retired").sum(), pl.col("first").min(), pl.col("last").max()
    )
    names = {"commit": COMMIT, "time": TIME, "rows": "said", "retired": "said_retired"}
    said = table.select(*names).rename(names)
    both = said.join(counted, on=[COMMIT, TIME], how="full", coalesce=True).with_columns(
        pl.col("rows", "retired").fill_null(0), pl.col("first").fill_null(0), pl.col("last").fill_null(-1)
    )
    is_whole = (pl.col("rows") == pl.col("said")) & (pl.col("first") == 0) & (pl.col("last") == pl.col("rows") - 1)
    wrong = both.filter(~is_whole.fill_null(value=False)).sort(TIME, COMMIT)
    if wrong.height:
        first = wrong.row(0, named=True)
        said_of = "it does not cover" if first["said"] is None else f"has {first['said']} by its table"
        yield f"has {first['rows']} rows of commit {first[COMMIT]}, which {said_of}; {wrong.height} are wrong in all"
        return
    wrong = both.filter(pl.col("retired") != pl.col("said_retired")).sort(TIME, COMMIT)
    if wrong.height:
        first = wrong.row(0, named=True)
        yield (
            f"has {first['retired']} rows of commit {first[COMMIT]} that retire a sample, which has "
            f"{first['said_retired']} by its table; {wrong.height} are wrong in all"
        )


def _overlaps(parts: Sequence[tuple[DataFile, Contents]]) -> Iterator[str]:
    """Yield where two files of one schema, both written by the compaction, may share a sample."""
    rewritten = [(file.schema, found.ends) for file, found in parts if _is_rewritten(file) and found.ends]
    for schema in sorted({schema for schema, _ in rewritten}):
        ends = [ends for other, ends in rewritten if other == schema]
        if any(not before[1] < after[0] for before, after in pairwise(ends)):
            yield "lists data files of its own whose ids are not in order from one to the next"
