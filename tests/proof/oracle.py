"""What a reader may see, as a dict knows it.

The oracle is told when each write begins and how it ends, and judges what each read returns. It knows nothing of views:
the order of commits it takes from the JSON of their manifests, as they were put into the bucket, and from the time of
that.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import polars as pl

from metaxy_fs.log.verified_io import Finding

APPENDS = "/_manifests/appends/"
DAY_AND_A_HALF = 36 * 3_600_000_000
"""A commit that claims to be later than it arrived by more than that counts at its arrival."""


class BrokenPromiseError(AssertionError):
    """The log broke a promise."""


@dataclass
class Write:
    """One write: what it holds, and what is known of its outcome.

    A write that failed for certain may never be seen; one of unknown outcome is seen whole or not at all, and forever
    once it was seen. One that retires samples has no rows; it is seen where the latest row of a sample is missing.
    """

    take: int
    notes: dict[int, str | None]
    name: str | None
    retires: bool = False
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

    def ids(self) -> pl.DataFrame:
        """The samples."""
        return pl.DataFrame({"sample_id": list(self.notes)}, schema={"sample_id": pl.Int64})

    @property
    def tags(self) -> dict[str, str]:
        """By which a manifest tells whose it is."""
        return {"take": str(self.take)}

    def rows(self) -> list[tuple[int, int, str | None]]:
        """The rows as a read has to give them: in the order of their samples."""
        return [(sample, self.take, note) for sample, note in sorted(self.notes.items())]


@dataclass
class Oracle:
    """All writes, and all that was seen of them."""

    written: Mapping[str, bytes]
    arrivals: Mapping[str, int]
    writes: list[Write] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    _order: dict[str, tuple[int, str]] = field(default_factory=dict)
    _takes: dict[str, int | None] = field(default_factory=dict)
    _claimed: dict[str, int] = field(default_factory=dict)

    def begin(self, notes: dict[int, str | None], *, name: str | None, retires: bool = False) -> Write:
        """Remember a write that is about to start."""
        self.writes.append(Write(len(self.writes), notes, name, retires))
        return self.writes[-1]

    def due(self) -> frozenset[int]:
        """Which writes a read has to show that begins now, whatever happens before it ends."""
        acknowledged = {write.take for write in self.writes if write.state == "acknowledged"}
        return frozenset(acknowledged | self.seen)

    def judge_rows(self, rows: pl.DataFrame, due: frozenset[int]) -> list[int]:
        """Refuse rows that no reader may see; return which writes they show, in order."""
        found = [(row["sample_id"], row.get("take"), row.get("note")) for row in rows.iter_rows(named=True)]
        if any(take is None for _, take, _ in found):
            raise BrokenPromiseError(f"a row that retires a sample is shown: {rows.to_dicts()}")
        shown = [(take, list(run)) for take, run in groupby(found, key=lambda row: row[1])]
        takes = [take for take, _ in shown]
        self._judge_takes(takes, frozenset(take for take in due if not self.writes[take].retires))
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
        latest = {row["sample_id"]: row.get("take") for row in rows.iter_rows(named=True)}
        if len(latest) != rows.height or None in latest.values():
            raise BrokenPromiseError(f"a sample is shown twice, or retired: {rows.to_dicts()}")
        order = self.order()
        for sample in {sample for take in due for sample in self.writes[take].notes}:
            last = max((take for take in due if sample in self.writes[take].notes), key=order.__getitem__)
            if sample in latest and order[latest[sample]] < order[last]:
                raise BrokenPromiseError(f"sample {sample} is shown as of {latest[sample]}, not of {last} or later")
            if sample not in latest:
                self._judge_missing(sample, last, order)
        for sample, take in latest.items():
            if sample not in self.writes[take].notes or self.writes[take].state == "failed":
                raise BrokenPromiseError(f"sample {sample} is shown as of write {take}, which did not commit it")
        self.seen |= set(latest.values())

    def _judge_missing(self, sample: int, last: int, order: Mapping[int, tuple[int, str]]) -> None:
        """Refuse that a sample is missing whose last write is known, unless that or a later one may have retired it."""
        retiring = [write for write in self.writes if write.retires and sample in write.notes]
        known = [write.take for write in retiring if write.state != "failed" and write.take in order]
        later = [take for take in known if order[take] >= order[last]]
        if not later:
            raise BrokenPromiseError(f"sample {sample} is not shown, though write {last} committed it")
        if len(later) == 1:
            self.seen.add(later[0])

    def latest_at(self, moment: int) -> dict[int, int]:
        """Return which write the latest row of each sample is of at a time, by order and nothing else."""
        latest: dict[int, int] = {}
        order = self.order()
        for take in sorted(order, key=order.__getitem__):
            for sample in self.writes[take].notes if order[take][0] <= moment else ():
                latest.pop(sample, None)
                if not self.writes[take].retires:
                    latest[sample] = take
        return latest

    def judge_absence(self, due: frozenset[int]) -> None:
        """Refuse the answer that there is no commit."""
        if due:
            raise BrokenPromiseError(f"no commit is shown, though {sorted(due)} were")

    def judge_order(self, take: int, *, known: Iterable[int]) -> None:
        """Refuse an acknowledged commit that was never put, or is ordered before one that its writer knew."""
        order = self.order()
        if absent := {take, *known} - order.keys():
            raise BrokenPromiseError(f"no manifest was ever put for {absent}, which was acknowledged or shown")
        # One of a clock that is far ahead counts at its arrival, others of clocks that are a little ahead do not.
        excused = self._early() if self._is_ahead(take) else frozenset()
        if early := [other for other in known if order[other] > order[take] and other not in excused]:
            raise BrokenPromiseError(f"write {take} is ordered before {early}, which its writer knew")

    def judge_audit(self, audit: tuple[list[Finding], pl.DataFrame]) -> None:
        """Refuse a root in which something is damaged, or whose history is not that of its commits."""
        damage, history = audit
        damage = [finding for finding in damage if not self._is_known(finding)]
        commits = history.get_column("commit").to_list()
        if damage:
            raise BrokenPromiseError(f"verify finds damage: {damage}")
        if commits != [commit for _, commit in sorted(self.order().values())]:
            raise BrokenPromiseError(f"the history has the commits {commits}, they are {self.order()}")
        for rows, retired, tags in history.select("rows", "retired", "tags").iter_rows():
            write = self.writes[int(json.loads(tags or "{}").get("take", -1))]
            expected = (0, len(write.notes)) if write.retires else (len(write.notes), 0)
            if write.tags != json.loads(tags or "{}") or (rows, retired) != expected:
                raise BrokenPromiseError(f"the history has {rows} rows, {retired} retired and {tags} of {write}")

    def judge_restored(self, found: tuple[int, list[pl.DataFrame]]) -> None:
        """Refuse latest rows that are not those of the moment that was restored."""
        moment, several = found
        expected = {sample: (take, self.writes[take].notes[sample]) for sample, take in self.latest_at(moment).items()}
        for rows in several:
            latest = {row["sample_id"]: (row.get("take"), row.get("note")) for row in rows.iter_rows(named=True)}
            if latest != expected:
                raise BrokenPromiseError(f"restored as {latest}, at {moment} it was {expected}")

    def order(self) -> dict[int, tuple[int, str]]:
        """Return time and id of the commit of each write that is committed."""
        for path, data in list(self.written.items()):
            if APPENDS in path and path not in self._takes:
                manifest = json.loads(data)
                self._takes[path] = self._take(path, manifest)
                self._claimed[path] = manifest["time"]
                self._order[path] = (self.time_of(path, claimed=manifest["time"]), manifest["commit"])
        return {take: self._order[path] for path, take in self._takes.items() if take is not None}

    def time_of(self, path: str, *, claimed: int) -> int:
        """Return the time at which the commit of a manifest counts."""
        return self.arrivals[path] if claimed > self.arrivals[path] + DAY_AND_A_HALF else claimed

    def _is_ahead(self, take: int) -> bool:
        return any(
            self._claimed[path] > self._order[path][0] for path, committed in self._takes.items() if committed == take
        )

    def _early(self) -> frozenset[int]:
        """Return the writes whose commits count later than they arrived."""
        early = [path for path in self._order if self._order[path][0] > self.arrivals[path]]
        return frozenset(take for path in early if (take := self._takes[path]) is not None)

    def _is_known(self, finding: Finding) -> bool:
        """Whether a finding says what is so: that a commit claims a time far ahead."""
        is_ahead = self._claimed.get(finding.path, 0) > self._order.get(finding.path, (0, ""))[0]
        return is_ahead and finding.severity == "warning" and "claims to be of" in finding.problem

    def _take(self, path: str, manifest: dict[str, Any]) -> int | None:
        """Return which write a manifest commits, None for one that restores."""
        partition = path.partition("/_manifests/")[0]
        for file in manifest["files"]:
            if f"{partition}/{file['name']}" not in self.written:
                raise BrokenPromiseError(f"{path} was put before its data file {file['name']}")
        tags = manifest.get("tags", {})
        return int(tags["take"]) if "take" in tags else None

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
