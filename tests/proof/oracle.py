"""What may a reader see, as far as a dict knows?

The oracle is told when each write begins and how it ends, and judges what each read returns. It knows nothing of views:
the order of commits it takes from the JSON of their manifests, as they were put into the bucket.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import polars as pl

from metaxy_fs.log.objects.findings import Finding

APPENDS = "/_manifests/appends/"


class BrokenPromiseError(AssertionError):
    """The log broke a promise."""


@dataclass
class Write:
    """One write: what it holds, and what is known of its outcome.

    A write that failed for certain may never be seen; one of unknown outcome is seen whole or not at all, and for ever
    once it was seen.
    """

    take: int
    notes: dict[int, str | None]
    name: str | None
    state: Literal["running", "acknowledged", "failed", "unknown"] = "running"

    def frame(self) -> pl.DataFrame:
        """The rows; the column `note` is there only if some row has one."""
        rows = pl.DataFrame(
            {
                "sample_id": list(self.notes),
                "take": [self.take] * len(self.notes),
                "data_version": [{"default": f"{self.take}/{sample}"} for sample in self.notes],
            },
            schema_overrides={"sample_id": pl.Int64, "data_version": pl.Struct({"default": pl.String})},
        )
        if any(self.notes.values()):
            rows = rows.with_columns(pl.Series("note", list(self.notes.values()), dtype=pl.String))
        return rows

    def rows(self) -> list[tuple[int, int, str | None]]:
        """The rows as a read has to give them: in the order of their samples."""
        return [(sample, self.take, note) for sample, note in sorted(self.notes.items())]


@dataclass
class Oracle:
    """All writes, and all that was seen of them."""

    written: Mapping[str, bytes]
    writes: list[Write] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    _order: dict[str, tuple[int, str]] = field(default_factory=dict)
    _takes: dict[str, int | None] = field(default_factory=dict)

    def begin(self, notes: dict[int, str | None], *, name: str | None) -> Write:
        """Remember a write that is about to start."""
        self.writes.append(Write(len(self.writes), notes, name))
        return self.writes[-1]

    def due(self) -> frozenset[int]:
        """Which writes a read has to show that begins now, whatever happens before it ends."""
        acknowledged = {write.take for write in self.writes if write.state == "acknowledged"}
        return frozenset(acknowledged | self.seen)

    def judge_rows(self, rows: pl.DataFrame, due: frozenset[int]) -> list[int]:
        """Refuse rows that no reader may see; return which writes they show, in order."""
        found = [(row["sample_id"], row["take"], row.get("note")) for row in rows.iter_rows(named=True)]
        shown = [(take, list(run)) for take, run in groupby(found, key=lambda row: row[1])]
        takes = [take for take, _ in shown]
        self._judge_takes(takes, due)
        for take, run in shown:
            if run != self.writes[take].rows():
                raise BrokenPromiseError(f"write {take} is shown as {run}, it is {self.writes[take].rows()}")
        order = self.order()
        if takes != sorted(takes, key=order.__getitem__):
            raise BrokenPromiseError(f"writes are shown in the order {takes}, their commits have {order}")
        self.seen |= set(takes)
        return takes

    def judge_latest(self, rows: pl.DataFrame, due: frozenset[int]) -> None:
        """Refuse rows that are not the latest of their samples."""
        latest = dict(rows.select("sample_id", "take").iter_rows())
        if len(latest) != rows.height:
            raise BrokenPromiseError(f"a sample is shown twice: {rows.to_dicts()}")
        order = self.order()
        for take in due:
            for sample in self.writes[take].notes:
                if sample not in latest or order[latest[sample]] < order[take]:
                    raise BrokenPromiseError(
                        f"sample {sample} is shown as of {latest.get(sample)}, not of {take} or later"
                    )
        for sample, take in latest.items():
            if sample not in self.writes[take].notes or self.writes[take].state == "failed":
                raise BrokenPromiseError(f"sample {sample} is shown as of write {take}, which did not commit it")
        self.seen |= set(latest.values())

    def judge_absence(self, due: frozenset[int]) -> None:
        """Refuse the answer that there is no commit."""
        if due:
            raise BrokenPromiseError(f"no commit is shown, though {sorted(due)} were")

    def judge_order(self, take: int, *, known: Iterable[int]) -> None:
        """Refuse an acknowledged commit that was never put, or is ordered before one that its writer knew."""
        order = self.order()
        if absent := {take, *known} - order.keys():
            raise BrokenPromiseError(f"no manifest was ever put for {absent}, which was acknowledged or shown")
        if early := [other for other in known if order[other] > order[take]]:
            raise BrokenPromiseError(f"write {take} is ordered before {early}, which its writer knew")

    def judge_audit(self, audit: tuple[list[Finding], list[str]]) -> None:
        """Refuse a root in which something is damaged, or whose history is not that of its commits."""
        damage, commits = audit
        if damage:
            raise BrokenPromiseError(f"verify finds damage: {damage}")
        if commits != [commit for _, commit in sorted(self.order().values())]:
            raise BrokenPromiseError(f"the history has the commits {commits}, they are {self.order()}")

    def order(self) -> dict[int, tuple[int, str]]:
        """Return time and id of the commit of each write that is committed."""
        for path, data in list(self.written.items()):
            if APPENDS in path and path not in self._takes:
                manifest = json.loads(data)
                self._takes[path] = self._take(path, manifest)
                self._order[path] = (manifest["time"], manifest["commit"])
        return {take: self._order[path] for path, take in self._takes.items() if take is not None}

    def _take(self, path: str, manifest: dict[str, Any]) -> int | None:
        """Return which write a manifest commits, None for one without rows."""
        partition = path.partition("/_manifests/")[0]
        for file in manifest["files"]:
            data = self.written.get(f"{partition}/{file['name']}")
            if data is None:
                raise BrokenPromiseError(f"{path} was put before its data file {file['name']}")
            takes = pl.read_parquet(data, columns=["take"])["take"]
            if len(takes):
                return int(takes[0])
        return None

    def _judge_takes(self, takes: Iterable[int], due: frozenset[int]) -> None:
        takes = list(takes)
        if len(takes) > len(set(takes)):
            raise BrokenPromiseError(f"a write is shown twice or in pieces: {takes}")
        if missing := due - set(takes):
            raise BrokenPromiseError(
                f"writes {sorted(missing)} were acknowledged or seen before, and are not shown: {takes}"
            )
        if failed := [take for take in takes if self.writes[take].state == "failed"]:
            raise BrokenPromiseError(f"writes {failed} failed, and are shown")
