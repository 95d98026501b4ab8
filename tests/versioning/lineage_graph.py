"""Which graph has a feature of every relation to its upstream, and versions that must never change?"""

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
