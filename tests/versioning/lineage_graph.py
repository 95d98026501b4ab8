"""A graph with every relation of a feature to its upstream, and versions that must never change."""

from datetime import UTC, datetime

import polars as pl

CLIP, LABEL, FRAME, SHARP, SUMMARY, SEASON = ("clip",), ("label",), ("frame",), ("sharp",), ("summary",), ("season",)

GRAPH = {
    CLIP: {"pixels": (1, []), "sound": ("v2", [])},
    LABEL: {"default": (1, [])},
    FRAME: {"default": (4, [(CLIP, "pixels")]), "volume": (1, [(CLIP, "sound")])},
    SHARP: {"default": (1, [(FRAME, "default"), (LABEL, "default")]), "fixed": (1, [])},
    SUMMARY: {"default": (1, [(FRAME, "default"), (FRAME, "volume"), (CLIP, "sound")])},
    SEASON: {"default": (2, [(SUMMARY, "default"), (LABEL, "default")])},
}
DEPS = {
    (FRAME, CLIP): {"relation": "expansion", "rename": {"id": "clip"}},
    (SHARP, FRAME): {"where": "sharpness > 0.5 AND NOT hidden"},
    (SHARP, LABEL): {"optional": True},
    (SUMMARY, FRAME): {"relation": "aggregation", "where": 'sharpness > 0.25 OR "größe" = \'"|\\\''},
    (SUMMARY, CLIP): {"rename": {"id": "clip"}},
    (SEASON, SUMMARY): {"relation": "aggregation"},
    (SEASON, LABEL): {"relation": "aggregation", "optional": True, "rename": {"year": "season", "clip": "of"}},
}
ID_COLUMNS = {
    CLIP: ["id"],
    LABEL: ["clip", "frame"],
    FRAME: ["clip", "frame"],
    SHARP: ["frame", "clip"],
    SUMMARY: ["clip"],
    SEASON: ["season"],
}

NOON, BEFORE, ZERO = (
    datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
)
# What is written to the features without upstream, and the samples of those with, in the order of the graph.
ROWS = {
    CLIP: pl.DataFrame(
        {"id": ["ü|", "a"], "data_version": [{"pixels": "p1", "sound": "s1"}, {"pixels": "p2", "sound": "s2"}]}
    ),
    LABEL: pl.DataFrame(
        {
            "clip": ["a", "a", "ü|"],
            "frame": [NOON, BEFORE, ZERO],
            "year": [2024, 2024, -1],
            "data_version": [{"default": "l1"}, {"default": "é2"}, {"default": "l3"}],
        }
    ),
    FRAME: pl.DataFrame(
        {
            "clip": ["a", "a", "a", "ü|", "ü|"],
            "frame": [NOON, BEFORE, ZERO, ZERO, NOON],
            "sharpness": [0.5, 0.75, 1.0, 1.0, None],
            "hidden": [False, False, True, False, False],
            "größe": ["", "", "", "", '"|\\'],
        }
    ),
    SHARP: pl.DataFrame({"clip": ["a", "ü|"], "frame": [BEFORE, ZERO]}),
    SUMMARY: pl.DataFrame({"clip": ["ü|", "a"], "season": [2024, 2024]}),
    SEASON: pl.DataFrame({"season": [2024]}),
}
