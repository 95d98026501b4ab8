"""Drawings of explanations are unambiguous."""

import re
import xml.etree.ElementTree as ET

import pytest

from metaxy_fs.drawing import Box, Emphasis, to_mermaid, to_svg, to_text
from metaxy_fs.insight.ancestry import Digests, StoredRow, StoredVersions, ancestry
from metaxy_fs.insight.explanation import ContainerNode, ContainerRef, Difference, Explanation, RowsRef
from metaxy_fs.insight.provenance import explain_sample
from metaxy_fs.markup import printable
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.definition import definition_version
from tests.versioning.reference import feature_graph, row_version, sha256

HOSTILE = [
    'say "hi"',
    "it's",
    "<script>alert(1)</script>",
    "a & b; c",
    "#35;",
    "`code` {x} [y] (z) |w|",
    "%% comment",
    "new\nline\ttab\rreturn",
    "nul\x00 escape\x1b bell\x07",
    "right\u202eto left",
    "separator\u2028line",
    "not a character\uffff",
    "日本語 é 🎥",
    "]]>",
    "end",
    "---",
]


def boxes(text, *, title="video/default"):
    return [
        Box(title=title, lines=(text,), emphasis=Emphasis.CAUSE, upstream=()),
        Box(title="below", lines=("same",), emphasis=Emphasis.NONE, upstream=(0,)),
    ]


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314  # drawn here


# Escaping.


@pytest.mark.parametrize("text", HOSTILE)
def test_svg_is_well_formed_and_says_the_text(text):
    found = parsed(to_svg(boxes(text), title=text))
    texts = [element.text for element in found.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["▶ video/default", printable(text), "below", "same"]
    assert found.get("aria-label") == printable(text)
    tags = {element.tag.partition("}")[2] for element in found.iter()}
    assert tags == {"svg", "title", "path", "rect", "text"}


@pytest.mark.parametrize("text", HOSTILE)
def test_mermaid_keeps_the_text_within_its_label(text):
    lines = to_mermaid(boxes(text), title=text).split("\n")
    labelled = [re.fullmatch(r'  n\d+\["([^"]*)"\]:::\w+', line) for line in lines if line.startswith("  n0[")]
    assert len(labelled) == 1
    title, written = labelled[0].group(1).split("<br/>")
    assert title == "▶ video/default"
    assert not set("\"'<>&`{}[]()|\\%~*") & set(written)
    assert re.sub(r"#(\d+);", lambda code: chr(int(code.group(1))), written) == printable(text)
    assert [line for line in lines if "-->" in line] == ["  n0 --> n1"]
    assert lines[1].startswith("  accTitle: ")
    assert lines[2].startswith("  n0[")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_has_one_line_for_each_box(text):
    assert to_text(boxes(text), title=text).splitlines() == [
        printable(text),
        "below: same",
        f"└─ ▶ video/default: {printable(text)}",
    ]


# Pictures.


def test_boxes_of_a_picture_do_not_overlap_and_lie_below_what_they_come_from():
    drawn = [
        Box(title=f"box {place}", lines=("x" * (place % 7) * 5,), emphasis=Emphasis.NONE, upstream=above)
        for place, above in enumerate([(), (), (0,), (0, 1), (1,), (2, 4), (0, 5), ()])
    ]
    root = parsed(to_svg(drawn, title="t"))
    width, height = float(root.get("width")), float(root.get("height"))
    sides = [
        tuple(float(rect.get(name)) for name in ("x", "y", "width", "height"))
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    for place, (x, y, w, h) in enumerate(sides):
        assert 0 < x < x + w < width
        assert 0 < y < y + h < height
        assert all(y > sides[above][1] + sides[above][3] for above in drawn[place].upstream)
        others = sides[:place] + sides[place + 1 :]
        assert all(x + w < ox or ox + ow < x or y + h < oy or oy + oh < y for ox, oy, ow, oh in others)


def test_wide_characters_get_more_room():
    wide, narrow = ("".join(to_svg(boxes(text * 40), title="t")) for text in ("日", "n"))
    widths = [float(parsed(svg).get("width")) for svg in (wide, narrow)]
    assert widths[0] > widths[1] * 1.7


def test_nothing_is_drawn_of_nothing():
    assert to_text([], title="t") == "t"
    assert parsed(to_svg([], title="t")).get("viewBox") == "0 0 24 24"


# Explanations.

VIDEO = ContainerRef(FeatureKey(["video"]), "audio")
SOUND = ContainerRef(FeatureKey(["sound"]), "default")


def explanation(**changes):
    values = {"ref": SOUND, "code_version": 2, "expected": "e" * 64, "stored": "5" * 64, "made_from": (VIDEO,)}
    values |= {"difference": Difference.UPSTREAM_CHANGED, "changed": (VIDEO,)} | changes
    above = ContainerNode(ref=VIDEO, code_version=1, expected="take 2", stored="take 2", difference=Difference.SAME)
    nodes = {VIDEO: above, SOUND: ContainerNode(**values)}
    return Explanation(feature=SOUND.feature, sample={"sample_id": "s"}, nodes=nodes, causes=(VIDEO,))


def test_explanation_prints_as_a_tree():
    assert str(explanation()) == (
        "sound of sample_id='s' is stale, because of video/audio\n"
        "sound/default: code 2; stored 555555555555…, expected eeeeeeeeeeee…; upstream video/audio changed\n"
        "└─ ▶ video/audio: code 1; version take 2; same"
    )
    assert repr(explanation()) == str(explanation()) == explanation().to_text()


def test_notebook_shows_the_picture():
    assert explanation().to_svg() in explanation()._repr_html_()
    assert parsed(explanation().to_svg()).get("aria-label").startswith("sound of sample_id='s' is stale")


def test_mermaid_tells_causes_differences_and_the_rest_apart():
    lines = explanation().to_mermaid().splitlines()
    assert [line.rpartition(":::")[2] for line in lines if ":::" in line] == ["cause", "different"]


def test_long_version_that_somebody_gave_is_cut():
    assert f"version {'v' * 40}…;" in str(explanation(stored="v" * 50, expected="v" * 50))


@pytest.mark.parametrize(
    ("difference", "changes", "status"),
    [
        (Difference.SAME, {}, "up to date"),
        (Difference.NEVER_STORED, {"stored": None}, "new"),
        (Difference.UPSTREAM_STALE, {"waits_for": (VIDEO,)}, "waiting"),
        (Difference.UPSTREAM_MISSING, {"expected": None, "waits_for": (VIDEO,)}, "waiting"),
        (Difference.CODE_CHANGED, {}, "stale"),
        (Difference.UPSTREAM_CHANGED, {}, "stale"),
        (Difference.ADDED, {}, "stale"),
        (Difference.REMOVED, {}, "stale"),
    ],
)
def test_status_follows_from_the_differences(difference, changes, status):
    assert explanation(difference=difference, **changes).status == status


def test_each_row_is_judged_once_however_many_ways_lead_there():
    refs = [ContainerRef(FeatureKey([f"f{level}"]), "default") for level in range(2000)]
    nodes = {
        ref: ContainerNode(
            ref=ref,
            code_version=1,
            expected=None,
            stored="old",
            difference=Difference.UPSTREAM_MISSING if level else Difference.CODE_CHANGED,
            waits_for=tuple(refs[max(0, level - 3) : level]),
            is_given=False,
        )
        for level, ref in enumerate(refs)
    }
    assert Explanation(feature=refs[-1].feature, sample={"sample_id": 1}, nodes=nodes, causes=()).status == "stale"


# Origins.

GRAPH = {
    ("top",): {"x": (1, []), "y": (1, [])},
    ("side",): {"z": (1, [])},
    ("end",): {"c": ("v1", [(("top",), "y"), (("top",), "x"), (("side",), "z")])},
}
END = ContainerRef(FeatureKey(["end"]), "c")


def rows_of(*, tops, sides):
    graph = feature_graph(GRAPH)
    digests = Digests(graph, ancestry(graph, graph.specs[END.feature], {"sample_id": 1}), name_feature=False)
    digests.past[RowsRef(FeatureKey(["top"]))] = tops
    digests.past[RowsRef(FeatureKey(["side"]))] = sides
    return digests


def test_origin_of_a_version_is_the_combination_of_rows_that_it_was_hashed_from():
    tops = [{"x": f"x{n}", "y": f"y{n}"} for n in range(5)]
    sides = [{"z": f"z{n}"} for n in range(5)]
    digest = row_version(GRAPH["end",], {("top",): tops[3], ("side",): sides[1]})["c"]
    origin = rows_of(tops=tops, sides=sides).origin(END, digest)
    assert {str(ref): text for ref, text in origin.parts.items()} == {"side/z": "z1", "top/x": "x3", "top/y": "y3"}
    assert origin.code_version == "v1"


def test_origin_is_none_where_containers_never_stood_in_one_row():
    tops = [{"x": "x0", "y": "y0"}, {"x": "x1", "y": "y1"}, {"x": "x0"}]
    digest = row_version(GRAPH["end",], {("top",): {"x": "x0", "y": "y1"}, ("side",): {"z": "z"}})["c"]
    assert rows_of(tops=tops, sides=[{"z": "z"}]).origin(END, digest) is None


def test_search_for_an_origin_ends():
    many = [{"x": str(n), "y": str(n)} for n in range(2_000)]
    assert rows_of(tops=many, sides=[{"z": str(n)} for n in range(2_000)]).origin(END, sha256("nothing")) is None


def test_code_version_and_rows_may_have_changed_together():
    before = {**GRAPH, ("end",): {"c": (7, GRAPH["end",]["c"][1])}}
    now = {("top",): {"x": "x2", "y": "y"}, ("side",): {"z": "z"}}
    then = {("top",): {"x": "x1", "y": "y"}, ("side",): {"z": "z"}}
    stored = row_version(before["end",], then)
    graph = feature_graph(GRAPH)
    held = {
        RowsRef(FeatureKey(feature)): StoredVersions(
            current=row, layers=[StoredRow(row, definition(graph, feature))], history=[row, then[feature]]
        )
        for feature, row in now.items()
    }
    old = definition(feature_graph(before), ("end",))
    held[RowsRef(END.feature)] = StoredVersions(
        layers=[StoredRow(stored, old)], history=[stored], definitions=[old], code_versions={"c": [6, 7]}
    )
    ancestors = ancestry(graph, graph.specs[END.feature], {"sample_id": 1})
    found = explain_sample(graph, ancestors, versions=held, algorithm="sha256")
    assert found.containers["c"].reason == "code version changed from 7 to v1; upstream top/x changed"
    assert list(map(str, found.causes)) == ["top/x", "end/c"]


def definition(graph, feature):
    return definition_version(graph, FeatureKey(feature))
