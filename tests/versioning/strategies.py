"""Random graphs of features."""

from hypothesis import strategies as st

NAMES = ["a", "b-c", "b_c", "Z", "0", "a_b", "A"]
codes = st.one_of(st.integers(-3, 10**20), st.text("v1.é/_ {}", min_size=1, max_size=4))
versions = st.text("ab1é/_ =", min_size=1, max_size=4)

dep_options = st.fixed_dictionaries(
    {},
    optional={
        "optional": st.just(value=True),
        "rename": st.dictionaries(st.text('abé\n"\\\x7f', min_size=1), st.just("new"), min_size=1, max_size=1),
        "where": st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
        "columns": st.lists(st.uuids().map(str), unique=True, max_size=2),
    },
)
"""What a `FeatureDep` between features of the same id columns may say beside its key."""


@st.composite
def graphs(draw, *, max_depth=4, max_upstream=3):
    """Draw a graph (see `reference`) and the containers that leave their sources to the default."""
    levels, graph, implicit = [], {}, set()
    for depth in range(draw(st.integers(1, max_depth))):
        levels.append([])
        for place in range(draw(st.integers(1, 2))):
            feature = (draw(st.sampled_from(NAMES)), f"{depth}{place}")
            upstream = draw(_upstream(levels[:-1], max_upstream)) if depth else []
            graph[feature] = draw(_containers(feature, upstream, graph, implicit))
            levels[-1].append(feature)
    return graph, implicit


@st.composite
def _upstream(draw, levels, max_upstream):
    """At least one feature of the level above, so that depth is depth."""
    near = draw(st.sampled_from(levels[-1]))
    every = [feature for level in levels for feature in level]
    more = draw(st.lists(st.sampled_from(every), max_size=max_upstream - 1))
    return list(dict.fromkeys([near, *more]))


@st.composite
def _containers(draw, feature, upstream, graph, implicit):
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    every = [(above, part) for above in upstream for part in graph[above]]
    containers = {}
    for at, name in enumerate(names):
        # The first is made from all there is, so that the feature has all of its upstream.
        is_implicit = at == 0 or draw(st.booleans())
        if is_implicit:
            implicit.add((feature, name))
        some = every if is_implicit else draw(st.lists(st.sampled_from(every), unique=True)) if every else []
        containers[name] = (draw(codes), some)
    return containers
