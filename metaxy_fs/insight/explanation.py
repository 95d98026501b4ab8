"""The model of an explanation: why a sample has its version, and why it is stale.

The values of an answer. `metaxy_fs.insight.provenance` finds it, `metaxy_fs.drawing` draws it.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from graphlib import TopologicalSorter
from typing import Literal, NamedTuple

import msgspec

from metaxy_fs import drawing, markup
from metaxy_fs.spec import FeatureKey

_DIGEST = re.compile(r"(?:[0-9a-f]{32}){1,2}")
_SHOWN_DIGITS = 12
_SHOWN_CHARACTERS = 40
"""Of a digest, and of a version that somebody gave."""


Status = Literal["up to date", "waiting", "stale", "new", "excluded", "retired"]

Versions = Mapping[str, str]
"""A version for each container, by name."""


class RowsRef(NamedTuple):
    """The row, or the group of rows, of a feature that a sample is made from.

    Attributes:
        feature: The feature.
        rows: Which of its rows; empty for the one whose ids are those of the sample in question.
    """

    feature: FeatureKey
    rows: str = ""


class ContainerRef(NamedTuple):
    """A container of a row, or of a group of rows, of a feature.

    Attributes:
        feature: The feature.
        container: The name of the container.
        rows: Which rows; see `RowsRef`.

    Examples:
        >>> str(ContainerRef(FeatureKey(["video", "processing"]), "audio"))
        'video/processing/audio'
        >>> str(ContainerRef(FeatureKey(["frame"]), "pixels", "all of clip='a'"))
        "frame/pixels (all of clip='a')"
    """

    feature: FeatureKey
    container: str
    rows: str = ""

    def __str__(self) -> str:
        return f"{self.feature}/{self.container}" + (f" ({self.rows})" if self.rows else "")


class Difference(StrEnum):
    """What separates the stored version of a container from the expected one."""

    SAME = "same"
    NEVER_STORED = "never stored"
    CODE_CHANGED = "code version changed"
    UPSTREAM_CHANGED = "upstream changed"
    ADDED = "container added"
    REMOVED = "container removed"
    UPSTREAM_STALE = "upstream stale"
    """The same as follows from the upstream rows, but these have to be computed again."""
    UPSTREAM_MISSING = "upstream missing"
    """There is no current upstream row to tell the expected version from, and nothing else is known to differ."""
    EXCLUDED = "excluded"
    """There should be no such sample: its upstream row is retired, or the `where` of a dep does not hold for it."""
    RETIRED = "retired"
    """The sample is not to be computed again: the row to compare with retires it."""


class ContainerNode(msgspec.Struct, frozen=True, kw_only=True):
    """One container of a sample, stored against expected.

    Attributes:
        ref: Which container.
        code_version: That of its declaration; None if the declaration has it no more.
        expected: The version that follows from the latest upstream rows; of a root feature the one that was given.
            None where there is none: an upstream row is missing, or only the caller knows it.
        stored: The version in the latest stored row, None if there is none.
        difference: What separates the two.
        made_from: The upstream containers that it is made from.
        changed: Those of them that are known to differ from what the stored version was made from.
        waits_for: Upstream containers that have to be computed before it.
        stored_code_version: The code version behind the stored version, where it changed and could be found out.
        used: The version that the sample in question was made from, where it has been replaced since.
        used_code_version: The code version that it was made with, where it changed and could be found out.
        members: Of a group of rows: how many there are, and which.
        since: Of a group of rows: how it has changed since the sample in question was made from it.
        pending: Of a group of rows: what of it, or of what its rows are made from, has to be computed.
        excluded: Upstream rows that it would be made from, if a `where` did not exclude them.
        is_given: Whether only a writer gives its version: the feature is a root feature.
        content: Of a container that is versioned by content: the stored version that its writer gave and that features
            downstream see. `expected` and `stored` are then those that follow from what it is made from.
    """

    ref: ContainerRef
    code_version: int | str | None
    expected: str | None
    stored: str | None
    difference: Difference
    made_from: tuple[ContainerRef, ...] = ()
    changed: tuple[ContainerRef, ...] = ()
    waits_for: tuple[ContainerRef, ...] = ()
    stored_code_version: int | str | None = None
    used: str | None = None
    used_code_version: int | str | None = None
    members: str = ""
    since: str = ""
    pending: str = ""
    excluded: tuple[RowsRef, ...] = ()
    is_given: bool = False
    content: str | None = None

    @property
    def upstream(self) -> tuple[ContainerRef, ...]:
        """The upstream containers that have a bearing on it, each once."""
        return tuple(dict.fromkeys((*self.made_from, *self.waits_for)))

    @property
    def reason(self) -> str:
        """Why the stored version differs from the expected one, in words."""
        upstream = f"upstream {_names(self.changed)} changed" if self.changed else ""
        match self.difference:
            case Difference.SAME:
                why = self._since()
            case Difference.CODE_CHANGED if self.stored_code_version is None:
                why = "; ".join(filter(None, ("code version, or what it is made from, changed", upstream)))
            case Difference.CODE_CHANGED:
                code = f"code version changed from {self.stored_code_version} to {self.code_version}"
                why = "; ".join(filter(None, (code, upstream)))
            case Difference.UPSTREAM_CHANGED:
                why = upstream or "made from other upstream rows than any that is stored"
            case Difference.UPSTREAM_STALE if self.pending:
                why = f"same, but {self.pending}"
            case Difference.UPSTREAM_STALE:
                why = f"same, but upstream {_names(self.waits_for)} has to be computed again"
            case Difference.UPSTREAM_MISSING:
                why = f"upstream {_names(self.waits_for)} has to be computed first"
            case Difference.EXCLUDED:
                why = f"there should be no such sample: upstream {_rows(self.excluded)} is excluded"
            case _:
                why = str(self.difference)
        return why

    def _since(self) -> str:
        if self.used_code_version is not None:
            return f"code version changed since, it was {self.used_code_version}"
        if self.since:
            return f"changed since: {self.since}"
        if self.used == "":
            return "added since, there was none"
        return "same" if self.used is None else f"changed since, it was {_short(self.used)}"


class Explanation(msgspec.Struct, frozen=True):
    """Why a sample of a feature has its version, and why it is stale.

    Shows itself as text, and as a picture in a notebook.

    Attributes:
        feature: The feature that was asked about.
        sample: The values of the id columns, by name.
        nodes: Its containers and those upstream that have a bearing on them, upstream before downstream.
        causes: The containers from which the difference comes: their own code version, given version or absence.
    """

    feature: FeatureKey
    sample: Mapping[str, object]
    nodes: Mapping[ContainerRef, ContainerNode]
    causes: tuple[ContainerRef, ...]

    @property
    def containers(self) -> dict[str, ContainerNode]:
        """The containers of the feature itself, by name."""
        return {ref.container: node for ref, node in self.nodes.items() if ref.feature == self.feature and not ref.rows}

    @property
    def status(self) -> Status:
        """What the sample is, as a plan of a run counts it.

        A sample that such a run computes, perhaps after upstream, is new or stale. It is waiting if it lacks an
        upstream row that no run computes, and excluded if there should be no such sample.
        """
        return _statuses(self.nodes)[RowsRef(self.feature)]

    def to_text(self) -> str:
        """Return the tree of containers, downstream first; one that was shown before is not unfolded again."""
        return drawing.to_text(self._boxes(), title=self._title())

    def to_mermaid(self) -> str:
        """Return a Mermaid flowchart, upstream above downstream, for Markdown that renders it."""
        return drawing.to_mermaid(self._boxes(), title=self._title())

    def to_svg(self) -> str:
        """Return a picture, upstream above downstream, as the text of an SVG file."""
        return drawing.to_svg(self._boxes(), title=self._title())

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return markup.fragment(self._title(), markup.drawing(self.to_svg()))

    def _title(self) -> str:
        sample = ", ".join(f"{column}={value!r}" for column, value in self.sample.items())
        because = f", because of {_names(self.causes)}" if self.causes else ""
        return f"{self.feature} of {sample} is {self.status}{because}"

    def _boxes(self) -> list[drawing.Box]:
        places = {ref: place for place, ref in enumerate(self.nodes)}
        return [
            drawing.Box(
                title=str(node.ref),
                lines=_lines(node),
                emphasis=self._emphasis(node),
                upstream=tuple(places[ref] for ref in node.upstream),
            )
            for node in self.nodes.values()
        ]

    def _emphasis(self, node: ContainerNode) -> drawing.Emphasis:
        if node.ref in self.causes:
            return drawing.Emphasis.CAUSE
        is_same = node.difference is Difference.SAME
        return drawing.Emphasis.NONE if is_same else drawing.Emphasis.DIFFERENT


def _statuses(nodes: Mapping[ContainerRef, ContainerNode]) -> dict[RowsRef, Status]:
    """Return what the rows are that the containers belong to, each looked at once."""
    groups: dict[RowsRef, list[ContainerNode]] = {}
    for node in nodes.values():
        groups.setdefault(_rows_of(node.ref), []).append(node)
    upstream = {rows: {_rows_of(ref) for node in group for ref in node.waits_for} for rows, group in groups.items()}
    given = {_rows_of(ref) for ref, node in nodes.items() if node.is_given}
    statuses: dict[RowsRef, Status] = {}
    for rows in TopologicalSorter(upstream).static_order():
        comes = [above not in given and statuses[above] in ("new", "stale") for above in upstream[rows]]
        statuses[rows] = _status(groups[rows], comes)
    return statuses


def _rows_of(ref: ContainerRef) -> RowsRef:
    return RowsRef(ref.feature, ref.rows)


def _status(nodes: Sequence[ContainerNode], comes: Sequence[bool]) -> Status:
    """Return what rows are, given for each of those that they wait for whether a run brings them."""
    differences = {node.difference for node in nodes}
    if Difference.RETIRED in differences:
        return "retired"
    if Difference.EXCLUDED in differences:
        return "excluded"
    if differences == {Difference.SAME}:
        return "up to date"
    if not _is_due(nodes, differences, comes):
        return "waiting"
    return "stale" if any(node.stored for node in nodes) else "new"


def _is_due(nodes: Sequence[ContainerNode], differences: set[Difference], comes: Sequence[bool]) -> bool:
    """Whether a run computes rows that differ: not where it would bring no upstream row that these lack."""
    if any(node.expected is None and node.code_version is not None and not node.is_given for node in nodes):
        return all(comes)
    is_changed = not differences <= {Difference.SAME, Difference.UPSTREAM_STALE}
    return is_changed or any(comes) or any(node.pending for node in nodes)


def _lines(node: ContainerNode) -> tuple[str, ...]:
    code = "" if node.code_version is None else f"code {node.code_version}"
    content = "" if node.content is None else f"content {_short(node.content)}"
    return tuple(filter(None, (code, node.members, _versions(node), content, node.reason)))


def _versions(node: ContainerNode) -> str:
    if node.stored == node.expected and node.stored is not None:
        return f"version {_short(node.stored)}"
    sides = (("stored", node.stored), ("expected", node.expected))
    return ", ".join(f"{side} {_short(version)}" for side, version in sides if version is not None)


def _names(refs: tuple[ContainerRef, ...]) -> str:
    return ", ".join(map(str, refs))


def _rows(refs: tuple[RowsRef, ...]) -> str:
    return ", ".join(f"{ref.feature} ({ref.rows})" if ref.rows else str(ref.feature) for ref in refs)


def _short(version: str) -> str:
    """Return enough of a version to tell it from others."""
    shown = _SHOWN_DIGITS if _DIGEST.fullmatch(version) else _SHOWN_CHARACTERS
    return version if len(version) <= shown else f"{version[:shown]}…"
