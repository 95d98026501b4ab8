"""Random graphs of all relations, with histories.

`histories` is for comparing ways to compute versions and increments: it draws a graph and the commits of its
features, and gives them with a model that knows the right answers.
"""

import operator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import chain, combinations, product

import polars as pl
from hypothesis import strategies as st

from metaxy_fs.spec import FeatureKey
from tests.versioning.lineage_model import DIMENSIONS, PREDICATES, Dep, Model, Node, NoVersionError, Row
from tests.versioning.strategies import codes, versions

# Values of a dimension, and the types in which features may hold them.
KINDS = [
    ([0, 7, 100], [pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32()]),
    ([-(2**31), -1, 10], [pl.Int32(), pl.Int64()]),
    ([2**63 - 1, -(2**63), 1], [pl.Int64()]),
    (["", "a", "i1:1"], [pl.String()]),
    (["é|", "s2:é", "\x00\n"], [pl.String()]),
    ([b"", b"\x00\xff", b"a"], [pl.Binary()]),
    ([date(1969, 12, 31), date(1, 1, 1), date(2024, 2, 29)], [pl.Date()]),
    (
        [datetime(1969, 12, 31, 23, 59, 59, 999000), datetime(1970, 1, 1), datetime(2024, 2, 29, 12, 0, 0, 1000)],  # noqa: DTZ001  # ids without a zone
        [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns")],
    ),
    (
        [datetime(1969, 1, 1, 0, 0, 0, 1000, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)],
        [pl.Datetime("ms", "UTC"), pl.Datetime("us", "UTC"), pl.Datetime("ns", "UTC")],
    ),
]
COLUMNS = ["x", "y", "z"]
CONTAINERS = ["a", "b_c", "Z"]


@dataclass
class History:
    """A graph, what was committed to its features in order, and a model of it all.

    Attributes:
        model: What is right at the end.
        commits: Features and frames to be written with `write_metadata`; those of derived features have the versions
            that followed from what was upstream at the time.
    """

    model: Model
    commits: list

    def replay(self, store):
        """Write everything to a store."""
        with self.model.graph.use():
            for feature, frame in self.commits:
                store.write_metadata(FeatureKey(feature), frame)

    @property
    def derived(self):
        """The features that are made from others."""
        return [feature for feature, node in self.model.nodes.items() if node.deps]


@st.composite
def histories(draw, *, max_depth=5, max_upstream=4, carry=False):
    """Draw a `History`; features may be stale, incomplete, and not computable at its end.

    Args:
        draw: Of Hypothesis.
        max_depth: How many features there are in a row at most.
        max_upstream: How many upstream features one has at most.
        carry: Whether deps may carry columns.
    """
    values, nodes = draw(_nodes(max_depth, max_upstream, carry))
    model = Model(nodes)
    history = History(model, [])
    may_lack = draw(st.integers(0, 3)) == 0
    for feature, node in nodes.items():
        if not node.deps:
            _commit(draw, history, feature, draw(_rows(node, values, may_lack=may_lack)))
        elif not may_lack or draw(st.integers(0, 5)):
            _compute(draw, history, feature, values)
    roots = [feature for feature, node in nodes.items() if not node.deps]
    for feature in draw(st.lists(st.sampled_from(roots + list(nodes)), min_size=1, max_size=5)):
        if nodes[feature].deps:
            _compute(draw, history, feature, values)
        else:
            rows = draw(_rows(nodes[feature], values, may_lack=may_lack))
            _commit(draw, history, feature, rows + _again(draw, model, feature, rows))
    return history


def _again(draw, model, feature, rows):
    """Draw other versions for samples that are there already."""
    others = {model.key(feature, row.place) for row in rows}
    held = [row for key, row in model.rows[feature].items() if key not in others]
    chosen = draw(st.lists(st.sampled_from(held), unique_by=id, min_size=1, max_size=3)) if held else []
    return [Row(row.place, row.q, {name: draw(versions) for name in row.versions}) for row in chosen]


def _commit(draw, history, feature, rows):
    history.model.write(feature, rows)
    shuffled = draw(st.permutations(rows))
    history.commits.append((feature, history.model.frame(feature, shuffled, versions=True)))


def _compute(draw, history, feature, values):
    """Commit some of the samples that have a version, in one commit or two."""
    model, node = history.model, history.model.nodes[feature]
    rows = {}
    more = draw(_rows(node, values, may_lack=False)) if draw(st.integers(0, 3)) == 0 else []
    for row in _likely(draw, model, feature, values) + more:
        try:
            expected = model.versions(feature, row.place)
            made = expected | {name: draw(_outputs) for name in node.content}
            rows.setdefault(model.key(feature, row.place), Row(row.place, row.q, made, expected))
        except NoVersionError:
            continue
    rows = list(rows.values())
    rows = rows[draw(st.sampled_from([0, 0, 1])) :]
    cut = draw(st.sampled_from([len(rows), len(rows) // 2]))
    _commit(draw, history, feature, rows[:cut])
    if rows[cut:]:
        _commit(draw, history, feature, rows[cut:])


def _likely(draw, model, feature, values):
    """Draw samples that there should be; where parents are known alone, some that are made from them."""
    try:
        places = list(model.samples(feature).values())
    except NoVersionError:
        return []
    rows = []
    for place in places:
        for _ in range(draw(st.integers(0, 3)) if len(place) < len(model.nodes[feature].ids) else 1):
            whole = {d: draw(st.sampled_from(values[d])) for d in DIMENSIONS} | place
            rows.append(Row(whole, draw(_qualities), {}))
    return rows


_outputs = st.sampled_from(["same", "other"])
_qualities = st.sampled_from([0, 1, 2, None])


@st.composite
def _rows(draw, node, values, *, may_lack):
    """Draw rows of different samples; what does not name them is null at times, if it may."""
    every = list(product(*(values[d] for d in node.ids)))
    # Mostly all that there can be, so that most samples have all of their upstream rows.
    keys = every[:9] if draw(st.booleans()) else draw(st.lists(st.sampled_from(every), max_size=6, unique=True))
    rows = []
    for key in keys:
        place = {d: draw(st.sampled_from(values[d] + [None] * may_lack)) for d in DIMENSIONS}
        place |= dict(zip(node.ids, key, strict=True))
        given = {name: draw(versions) for name in node.containers}
        rows.append(Row(place, draw(_qualities), given))
    return rows


@st.composite
def _nodes(draw, max_depth, max_upstream, carry):
    kinds = {d: draw(st.sampled_from(KINDS)) for d in DIMENSIONS}
    levels, nodes = [], {}
    for depth in range(draw(st.integers(2, max_depth))):
        levels.append([])
        for place in range(draw(st.integers(1, 2 if depth else 3))):
            feature = (draw(st.sampled_from("fgF")), f"{depth}{place}")
            upstream = _upstream(draw, levels[:-1], max_upstream) if depth else []
            nodes[feature] = _node(draw, upstream, nodes, kinds, carry)
            levels[-1].append(feature)
    return {d: values[: draw(st.integers(1, 3))] for d, (values, _) in kinds.items()}, nodes


def _upstream(draw, levels, max_upstream):
    """At least one feature of the level above, so that depth is depth."""
    near = draw(st.sampled_from(levels[-1]))
    more = draw(st.lists(st.sampled_from(list(chain(*levels))), max_size=max_upstream - 1))
    return list(dict.fromkeys([near, *more]))


def _node(draw, upstream, nodes, kinds, carry):
    every = [ids for size in (1, 2, 3) for ids in combinations(DIMENSIONS, size)]
    possible = [ids for ids in every if all(_relation(ids, nodes[above].ids) for above in upstream)]
    ids = draw(st.sampled_from(possible))
    deps = {above: _dep(draw, _relation(ids, nodes[above].ids)) for above in sorted(upstream, key="_".join)}
    containers = _containers(draw, upstream, nodes)
    return Node(
        ids=ids,
        names=dict(zip(DIMENSIONS, draw(st.permutations(COLUMNS)), strict=True)),
        types={d: draw(st.sampled_from(types)) for d, (_, types) in kinds.items()},
        containers=containers,
        deps=_carrying(draw, ids, deps) if carry else deps,
        content=frozenset(
            draw(st.sets(st.sampled_from(sorted(containers)))) if upstream and draw(st.booleans()) else ()
        ),
    )


def _carrying(draw, ids, deps):
    """Have some of the deps carry the quality, and each other dimension be carried once at most."""
    carriers = {d: draw(st.sampled_from([None, *deps])) for d in DIMENSIONS if d not in ids} if deps else {}
    return {
        above: replace(
            dep,
            carries=(*(d for d, carrier in carriers.items() if carrier == above), *draw(st.sampled_from([(), ("q",)]))),
        )
        for above, dep in deps.items()
    }


def _relation(ids, above):
    """Return how samples named by some dimensions are made from rows that others name."""
    if set(ids) == set(above):
        return "one_to_one"
    return "expansion" if set(above) < set(ids) else "aggregation" if set(above) - set(ids) else None


def _dep(draw, relation):
    where = st.one_of(st.none(), st.none(), st.sampled_from(list(PREDICATES)))
    return Dep(relation, optional=draw(st.integers(0, 3)) == 0, where=draw(where))


def _containers(draw, upstream, nodes):
    """The first is made from something of all that is upstream, so that the feature has all of it."""
    parts = {above: list(nodes[above].containers) for above in upstream}
    containers = {}
    for at, name in enumerate(draw(st.lists(st.sampled_from(CONTAINERS), min_size=1, max_size=2, unique=True))):
        some = [
            (above, part)
            for above, names in parts.items()
            for part in draw(st.lists(st.sampled_from(names), min_size=1 - at, unique=True))
        ]
        containers[name] = (draw(codes), some)
    return containers


@st.composite
def predicates(draw, history, feature, ids):
    """Draw a predicate on ids and what is carried, and a function that tells it of the values of columns.

    Args:
        history: What was written.
        feature: The feature.
        ids: The dimensions that name a sample, or a parent.
    """
    model, node = history.model, history.model.nodes[feature]
    known = {d: [row.place[d] for rows in model.rows.values() for row in rows.values()] for d in DIMENSIONS}
    atoms = [
        _comparison(draw, pl.col(node.names[d]), node.names[d], value)
        for d in ids
        for value in [draw(st.sampled_from([v for v in known[d] if v is not None] or [None]))]
        if value is not None
    ]
    atoms += [_of_carried(draw, name, is_list=is_list) for name, is_list in model.carried_names(feature).items()]
    found = draw(st.sampled_from(atoms)) if atoms else (pl.lit(value=True), lambda _row: True)
    for other in draw(st.lists(st.sampled_from(atoms), max_size=2)) if atoms else []:
        found = draw(st.sampled_from([_both, _either, _both_not]))(found, other)
    return found


def _comparison(draw, column, name, value):
    operators = [operator.eq, operator.ne, operator.ge, operator.lt]
    compare = draw(st.sampled_from(operators))
    return compare(column, pl.lit(value)), lambda row: None if row[name] is None else compare(row[name], value)


def _of_carried(draw, name, *, is_list):
    column = pl.col(name)
    if draw(st.booleans()):
        return column.is_null(), lambda row: row[name] is None
    if is_list:
        return column.list.len() > 1, lambda row: None if row[name] is None else len(row[name]) > 1
    if name.startswith("q"):
        return _comparison(draw, column, name, draw(st.sampled_from([0, 1, 2])))
    return column.is_not_null(), lambda row: row[name] is not None


def _both(one, other):
    return one[0] & other[0], lambda row: _all_of(one[1](row), other[1](row))


def _either(one, other):
    return one[0] | other[0], lambda row: _negated(_all_of(_negated(one[1](row)), _negated(other[1](row))))


def _both_not(one, other):
    return ~(one[0] & other[0]), lambda row: _negated(_all_of(one[1](row), other[1](row)))


def _all_of(one, other):
    return False if one is False or other is False else None if one is None or other is None else True


def _negated(value):
    return None if value is None else not value
