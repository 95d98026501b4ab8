"""What stores answer about features of every relation, computed with nothing but hashlib, dicts and loops.

What samples are named by is called a dimension here: each feature has a column for each of three dimensions, under
names of its own, and some of them are its id columns. A row knows its place in all of them, so that rows can be grouped
by what does not name them.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import polars as pl

from tests.versioning.reference import feature_graph, row_version, sha256, upstream_of

DIMENSIONS = ("a", "b", "c")
# A predicate, and what it says of the column `q`, which holds an integer or None.
PREDICATES = {
    "q > 1": lambda q: q is not None and q > 1,
    "q <> 2 AND NOT (q = 0)": lambda q: q is not None and q not in (0, 2),
    "q IS NULL OR q IN (1, 2)": lambda q: q is None or q in (1, 2),
    '"q" BETWEEN -1 AND 0.5': lambda q: q == 0,
}


class NoVersionError(Exception):
    """A sample has no version that could be calculated, or cannot be told: a store raises."""


@dataclass(frozen=True)
class Dep:
    """How a feature is made from one upstream feature; what it carries are dimensions, and perhaps `q`."""

    relation: str
    optional: bool = False
    where: str | None = None
    carries: tuple = ()

    def holds(self, row):
        return self.where is None or PREDICATES[self.where](row.q)


@dataclass
class Node:
    """A feature.

    Attributes:
        ids: The dimensions that name a sample.
        names: The column of each dimension.
        types: The type of each of them.
        containers: See `reference`.
        deps: By upstream feature.
        content: The containers that are versioned by content.
    """

    ids: tuple
    names: dict
    types: dict
    containers: dict
    deps: dict = field(default_factory=dict)
    content: frozenset = frozenset()


@dataclass(frozen=True)
class Row:
    """One row: its place in each dimension, what predicates look at, its versions, and what these should be by formula.

    The latter are the same but for containers that are versioned by content.
    """

    place: dict
    q: int | None
    versions: dict
    provenance: dict | None = None

    @property
    def compared(self):
        return self.versions if self.provenance is None else self.provenance


class Model:
    """Features and the latest rows of their samples; features come upstream first.

    Attributes:
        nodes: The features.
        rows: Of each feature, the latest row of each sample in the order of the commits; rows of one commit come in
            the order of their ids.
    """

    def __init__(self, nodes):
        self.nodes = nodes
        self.rows = {feature: {} for feature in nodes}
        self.written = set()
        pairs = [(feature, above) for feature, node in nodes.items() for above in node.deps]
        self.graph = feature_graph(
            {feature: node.containers for feature, node in nodes.items()},
            deps={pair: self._options(*pair) for pair in pairs},
            id_columns={feature: [node.names[d] for d in node.ids] for feature, node in nodes.items()},
            content={(feature, name) for feature, node in nodes.items() for name in node.content},
        )

    def write(self, feature, rows):
        """Remember the rows of a commit."""
        self.written.add(feature)
        for row in sorted(rows, key=lambda row: self.key(feature, row.place)):
            self.rows[feature].pop(self.key(feature, row.place), None)
            self.rows[feature][self.key(feature, row.place)] = row

    def key(self, feature, place):
        return tuple(place[d] for d in self.nodes[feature].ids)

    def frame(self, feature, rows, *, versions):
        """Return rows as a frame of the feature's own columns and types."""
        node = self.nodes[feature]
        columns = {node.names[d]: pl.Series([row.place[d] for row in rows], dtype=node.types[d]) for d in DIMENSIONS}
        columns["q"] = pl.Series([row.q for row in rows], dtype=pl.Int64)
        if versions:
            dtype = pl.Struct(dict.fromkeys(node.containers, pl.String))
            columns["data_version"] = pl.Series([row.versions for row in rows], dtype=dtype)
            if node.content:
                columns["provenance"] = pl.Series([row.compared for row in rows], dtype=dtype)
        return pl.DataFrame(columns)

    def matching(self, feature, above, place):
        """Return the latest rows of an upstream feature that a sample is made from, were it not for `where`."""
        node, upstream = self.nodes[feature], self.nodes[above]
        by = upstream.ids if node.deps[above].relation == "expansion" else node.ids
        return [row for row in self.rows[above].values() if all(row.place[d] == place[d] for d in by)]

    def kept(self, feature, above, place):
        return [row for row in self.matching(feature, above, place) if self.nodes[feature].deps[above].holds(row)]

    def versions(self, feature, place):
        """Return the versions of one sample, or of all that are made from a parent."""
        node = self.nodes[feature]
        self.refuse_lost_rows(feature)
        if self.missing(feature, place):
            raise NoVersionError
        rows = {}
        for above in node.deps:
            found = self.kept(feature, above, place)
            rows[above] = {part: self._text(feature, above, part, found) for part in self.nodes[above].containers}
        return row_version(node.containers, rows)

    def missing(self, feature, place):
        """Return the required upstream features that a sample, or a parent, has no row or group of, by their keys."""
        deps = self.nodes[feature].deps
        lacking = [above for above, dep in deps.items() if not dep.optional and not self.kept(feature, above, place)]
        return sorted("/".join(above) for above in lacking)

    def carried(self, feature, place):
        """Return what is carried beside a sample, or a parent, by the names of the columns."""
        values = {}
        for above, dep in self.nodes[feature].deps.items():
            rows = self.kept(feature, above, place)
            rows.sort(key=lambda row, above=above: self.key(above, row.place))
            for what in dep.carries:
                found = [row.q if what == "q" else row.place[what] for row in rows]
                value = found if dep.relation == "aggregation" else found[0] if found else None
                values[self.carried_name(feature, above, what)] = value if found else None
        return values

    def carried_name(self, feature, above, what):
        return f"q of {'_'.join(above)}" if what == "q" else self.nodes[feature].names[what]

    def carried_names(self, feature):
        """Return the columns that a feature carries, and whether each holds lists."""
        node = self.nodes[feature]
        return {
            self.carried_name(feature, above, what): node.deps[above].relation == "aggregation"
            for above in upstream_of(node.containers)
            for what in node.deps[above].carries
        }

    def refuse_lost_rows(self, feature):
        """Rows that have no place in a dimension are in no group; and what was never written is missing."""
        for above, dep in self.nodes[feature].deps.items():
            if above not in self.written and not dep.optional:
                raise NoVersionError
            if dep.relation == "aggregation":
                for row in self.rows[above].values():
                    if dep.holds(row) and any(row.place[d] is None for d in self.nodes[feature].ids):
                        raise NoVersionError

    def grain(self, feature):
        """Return the features that name the samples, the dimensions that they name, and whether these are parents."""
        node = self.nodes[feature]
        required = [above for above, dep in node.deps.items() if not dep.optional] or list(node.deps)
        makers = [above for above in required if node.deps[above].relation != "expansion"]
        if makers:
            return makers, node.ids, False
        ids = self.nodes[required[0]].ids
        for above, dep in node.deps.items():
            own = self.nodes[above].ids if dep.relation == "expansion" else node.ids
            if not set(own) <= set(ids) or (above in required and own != ids):
                raise NoVersionError
        return required, ids, True

    def samples(self, feature):
        """Return the samples or parents that there should be: their places by what names them."""
        telling, ids, _ = self.grain(feature)
        self.refuse_lost_rows(feature)
        if not self.written.intersection(telling):
            raise NoVersionError
        deps = self.nodes[feature].deps
        rows = [row for above in telling for row in self.rows[above].values() if deps[above].holds(row)]
        found = {tuple(row.place[d] for d in ids): {d: row.place[d] for d in ids} for row in rows}
        return {key: place for key, place in found.items() if not self._is_excluded(feature, place)}

    def expected(self, feature):
        """Return what there should be, with the versions; and what waits, with what it waits for."""
        return self._versions_or_missing(feature, self.samples(feature))

    def increment(self, feature):
        """Return new, stale, orphaned and waiting of the default samples."""
        _, ids, are_parents = self.grain(feature)
        expected, waiting = self.expected(feature)
        return (*(self._of_parents if are_parents else self._of_samples)(feature, ids, expected, waiting), waiting)

    def increment_of(self, feature, places):
        """Return new, stale, orphaned and waiting where samples are given."""
        self.refuse_lost_rows(feature)
        expected, waiting = self._versions_or_missing(feature, {self.key(feature, place): place for place in places})
        return (*self._of_samples(feature, self.nodes[feature].ids, expected, waiting), waiting)

    def selected(self, feature, ids, places, found, holds):
        """Return the parts of new, stale, orphaned and waiting for which a predicate holds.

        Args:
            feature: The feature.
            ids: The dimensions that name a sample, or a parent.
            places: The places of those that there should be.
            found: New, stale, orphaned and waiting.
            holds: Tells it of the values of columns, None where it cannot.
        """
        names, nothing = self.nodes[feature].names, dict.fromkeys(self.carried_names(feature))
        inside = {
            tuple(place[d] for d in ids): holds({names[d]: place[d] for d in ids} | self.carried(feature, place))
            for place in places
        }

        def is_orphan_inside(key):
            place = dict(zip(self.nodes[feature].ids, key, strict=True))
            parent = tuple(place[d] for d in ids)
            return inside.get(parent, holds({names[d]: place[d] for d in ids} | nothing))

        new, stale, orphaned, waiting = found
        new, stale, waiting = ({k: v for k, v in each.items() if inside[k]} for each in (new, stale, waiting))
        return new, stale, {key for key in orphaned if is_orphan_inside(key)}, waiting

    def _versions_or_missing(self, feature, places):
        lacking = {key: self.missing(feature, place) for key, place in places.items()}
        waiting = {key: missing for key, missing in lacking.items() if missing}
        return {key: self.versions(feature, place) for key, place in places.items() if key not in waiting}, waiting

    def _of_samples(self, feature, _ids, expected, waiting):
        stored = self.rows[feature]
        new = {key: found for key, found in expected.items() if key not in stored}
        stale = {key: found for key, found in expected.items() if key in stored and stored[key].compared != found}
        return new, stale, {key for key in stored if key not in expected and key not in waiting}

    def _of_parents(self, feature, ids, expected, waiting):
        last = {tuple(row.place[d] for d in ids): row.compared for row in self.rows[feature].values()}
        new = {key: found for key, found in expected.items() if key not in last}
        stale = {key: found for key, found in expected.items() if key in last and last[key] != found}
        orphaned = set()
        for key, row in self.rows[feature].items():
            parent = tuple(row.place[d] for d in ids)
            if parent in waiting:
                continue
            if parent not in expected or (parent not in stale and row.compared != expected[parent]):
                orphaned.add(key)
        return new, stale, orphaned

    def _is_excluded(self, feature, place):
        return any(
            not dep.optional and self.matching(feature, above, place) and not self.kept(feature, above, place)
            for above, dep in self.nodes[feature].deps.items()
        )

    def _text(self, feature, above, part, rows):
        """Return what stands for rows of an upstream feature in a preimage."""
        node = self.nodes[feature]
        if not rows:
            return ""
        if node.deps[above].relation != "aggregation":
            (row,) = rows
            return row.versions[part]
        apart = sorted((d for d in self.nodes[above].ids if d not in node.ids), key=node.names.__getitem__)
        members = []
        for row in rows:
            version = row.versions[part]
            members.append("".join(id_text(row.place[d]) for d in apart) + f"|{len(version.encode())}:{version}")
        return sha256("".join(sorted(members, key=str.encode)))

    def _options(self, feature, above):
        dep, own, theirs = self.nodes[feature].deps[above], self.nodes[feature].names, self.nodes[above].names
        options = {
            "relation": dep.relation,
            "optional": dep.optional,
            "rename": {theirs[d]: own[d] for d in DIMENSIONS if theirs[d] != own[d]},
            "where": dep.where,
            "columns": ["q" if what == "q" else theirs[what] for what in dep.carries],
        }
        if "q" in dep.carries:
            options["rename"]["q"] = self.carried_name(feature, above, "q")
        return {name: value for name, value in options.items() if value not in ("one_to_one", False, {}, None, [])}


def id_text(value):
    match value:
        case bool() | None:
            raise AssertionError(value)
        case int():
            kind, text = "i", str(value)
        case str():
            kind, text = "s", value
        case bytes():
            kind, text = "b", value.hex()
        case datetime():
            kind, text = "t", seconds(value)
        case date():
            kind, text = "d", str((value - date(1970, 1, 1)).days)
    return f"{kind}{len(text.encode())}:{text}"


def seconds(value):
    since = value - datetime(1970, 1, 1, tzinfo=UTC if value.tzinfo else None)
    nanoseconds = since // timedelta(microseconds=1) * 1000
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
