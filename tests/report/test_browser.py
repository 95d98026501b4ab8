"""The report in a browser: what is seen, clicked, typed and read aloud, at three widths and in both colours."""

from pathlib import Path
from random import Random

import msgspec
import pytest

from metaxy_fs import ContainerSpec, FeatureDep, FeatureGraph, FeatureSpec, InMemoryMetadataStore
from metaxy_fs.report import store_facts, write_page
from metaxy_fs.report.facts import StateFacts
from tests.report.roots import pipeline, run

PHONE, LAPTOP, WIDE = 400, 1280, 1920
MEGABYTE = 1_000_000
UNNAMED = """() =>
  [...document.querySelectorAll("button, input, select, aside, [role=img], [role=button], [role=region]")]
  .filter((each) => each.checkVisibility() && !(each.getAttribute("aria-label") || each.textContent).trim())
  .map((each) => each.outerHTML.slice(0, 80))"""
CONTRAST = (Path(__file__).parent / "contrast.js").read_text("utf-8")
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "<!--<script>",
    "\u202egnirts\u2066\0\x1b[31m",
    "${window.hacked = 1}\u2028{{1}}",
    "x" * 10_000,
)


def facts_of(features: int):
    """Return the facts of a pipeline, with states as dice give them where there are too many to compute."""
    if features <= 50:
        made = pipeline(features)
        return store_facts(made.store, graph=made.graph, states=True)
    made = pipeline(features, is_computed=False)
    dice = Random(1)  # noqa: S311  # the same each time
    found = store_facts(made.store, graph=made.graph, states=False)
    states = [StateFacts(*(dice.choice((0, 0, 7)) for _ in range(4)), missing=[], causes=[]) for _ in found.features]
    drawn = [msgspec.structs.replace(each, states=state) for each, state in zip(found.features, states, strict=True)]
    return msgspec.structs.replace(found, features=drawn)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Return the report of so many features, made once."""
    made = {}

    def report(features: int):
        if features not in made:
            made[features] = tmp_path_factory.mktemp("reports") / f"{features}.html"
            write_page([facts_of(features)], made[features])
        return made[features]

    return report


@pytest.mark.parametrize(
    ("features", "width", "most"), [(5, PHONE, 0.3), (50, LAPTOP, 0.4), (200, WIDE, 2.0)], ids=["5", "50", "200"]
)
def test_boxes_stand_apart_and_names_can_be_read(opened, reports, features, width, most):
    path = reports(features)
    assert path.stat().st_size < most * MEGABYTE
    with opened(path, width=width) as page:
        assert page.locator("g.box").count() == features
        places = page.evaluate("[...shown.graph.places.values()].map(({x, y}) => [x, y])")
        box = page.evaluate("BOX")
        touching = [
            (one, other)
            for number, one in enumerate(places)
            for other in places[:number]
            if abs(one[0] - other[0]) < box["width"] and abs(one[1] - other[1]) < box["height"]
        ]
        assert touching == []
        inside = page.locator("g.box text:visible").first
        assert inside.evaluate("text => text.getBoundingClientRect().height") >= 8
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        overflowing = page.evaluate(
            "[...document.querySelectorAll('g.box text')].filter(text => text.getClientRects().length"
            " && 14 + text.getComputedTextLength() > BOX.width).map(text => text.textContent)"
        )
        assert overflowing == []
        drawn = page.evaluate("shown.graph.edges.map(({from, to}) => [from, to])")
        declared = page.evaluate("shown.store.features.flatMap(({key, upstream}) => upstream.map(each => [each, key]))")
        assert sorted(drawn) == sorted(declared)


@pytest.mark.parametrize("width", [PHONE, LAPTOP, WIDE])
def test_the_legend_is_below_the_graph_and_covers_no_box(opened, reports, width):
    with opened(reports(50), width=width) as page:
        graph, legend = (page.locator(each).bounding_box() for each in ("#views > svg:first-child", ".legend"))
        views = page.locator("#views").bounding_box()
        assert graph["height"] > 200
        assert legend["y"] >= graph["y"] + graph["height"]
        assert legend["y"] + legend["height"] <= views["y"] + views["height"]


def test_a_click_opens_the_panel_with_all_that_is_known(opened, reports):
    with opened(reports(5)) as page:
        page.click("g.box[aria-label^='video/crops:']")
        panel = page.locator("#panel")
        assert panel.locator("h2").text_content() == "video/crops"
        assert [title.strip() for title in panel.locator("h3").all_text_contents()] == [
            *("Samples by state", "Made from", "Used by", "Containers", "Definitions over time", "Commits"),
            *("Files and upkeep", "Snapshots"),
        ]
        assert "run 2026-11-28" in panel.text_content()
        panel.locator("text=video/files").click()
        assert panel.locator("h2").text_content() == "video/files"
        page.click("#panel .close")
        assert panel.is_hidden()


def test_the_graph_is_walked_by_keys(opened, reports):
    with opened(reports(5)) as page:
        focused = "document.activeElement.getAttribute('aria-label')"
        page.evaluate("shown.graph.focus('video/files')")
        page.keyboard.press("ArrowRight")
        first = page.evaluate(focused)
        page.keyboard.press("ArrowDown")
        assert page.evaluate(focused) != first
        name = page.evaluate(focused).partition(":")[0]
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.textContent") == name
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Close"
        page.keyboard.press("Escape")
        assert page.locator("#panel").is_hidden()
        assert page.evaluate(focused).startswith(f"{name}: ")
        scale = page.evaluate("shown.graph.view.scale")
        page.keyboard.press("+")
        assert page.evaluate("shown.graph.view.scale") > scale


def test_all_is_reached_by_tab_alone(opened, reports):
    with opened(reports(5)) as page:
        seen = []
        for _ in range(12):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('class')"))
        assert {"search", "theme", "tab-graph"} < set(seen)
        assert any(each and each.startswith("box") for each in seen)


def test_the_graph_moves_by_wheel_and_pointer(opened, reports):
    with opened(reports(50)) as page:
        under = "(({x, y, scale}) => [(600 - x) / scale, (500 - y) / scale])(shown.graph.view)"
        scale, before = page.evaluate("shown.graph.view.scale"), page.evaluate(under)
        box = page.evaluate("(({left, top}) => [left, top])(shown.graph.svg.getBoundingClientRect())")
        page.mouse.move(600 + box[0], 500 + box[1])
        page.mouse.wheel(0, -240)
        page.wait_for_function("scale => shown.graph.view.scale > scale", arg=scale)
        assert page.evaluate(under) == pytest.approx(before, abs=2)
        x = page.evaluate("shown.graph.view.x")
        page.mouse.down()
        page.mouse.move(680 + box[0], 500 + box[1], steps=4)
        page.mouse.up()
        assert page.evaluate("shown.graph.view.x") == pytest.approx(x + 80)
        assert page.locator("#panel").is_hidden()
        page.click(".map", position={"x": 8, "y": 70})
        assert page.evaluate("shown.graph.view.x") > x + 80
        page.click("[aria-label='Show all']")
        assert page.evaluate("shown.graph.view.scale * shown.graph.size.x <= shown.graph.svg.clientWidth")


def test_search_finds_names_and_code_and_enter_opens_what_was_found(opened, reports):
    with opened(reports(50)) as page:
        page.keyboard.press("/")
        page.keyboard.type("audio crops")
        hits = page.evaluate("shown.store.features.filter(each => /audio\\/crops/.test(each.key)).length")
        assert page.text_content("#found") == f"{hits} of 50"
        assert page.locator("g.box:not(.unfound)").count() == hits
        page.keyboard.press("Enter")
        assert page.locator("#panel h2").text_content().startswith("audio/crops")
        page.fill("#search", "no such feature")
        assert page.text_content("#found") == "0 of 50"
        page.fill("#search", "")
        assert page.locator("g.box.unfound").count() == 0


def test_the_table_is_sorted_and_searched(opened, reports):
    with opened(reports(50), width=PHONE) as page:
        page.click("#tab-table")
        page.click("th button >> text=Rows")
        rows = page.locator("tbody tr td:nth-child(3)").all_text_contents()
        numbers = [int(text.replace(",", "")) for text in rows]
        assert numbers == sorted(numbers, reverse=True)
        assert page.get_attribute("th:nth-child(3)", "aria-sort") == "descending"
        page.fill("#search", "video/files")
        assert page.locator("tbody tr").count() == 1
        page.click("tbody .open")
        assert page.text_content("#panel h2") == "video/files"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened, reports, scheme):
    with opened(reports(50), scheme=scheme) as page:
        is_dark = "document.documentElement.classList.contains('dark')"
        assert page.evaluate(is_dark) is (scheme == "dark")
        page.evaluate("openPanel(shown.store.features.find(each => each.states.new).key, false)")
        assert page.evaluate(CONTRAST) == []
        page.click("#theme")
        assert page.evaluate(is_dark) is (scheme == "light")
        assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [PHONE, LAPTOP, WIDE])
def test_nothing_is_without_a_name_or_out_of_the_window(opened, reports, width):
    with opened(reports(5), width=width) as page:
        for tab in page.locator("[role=tab]").all():
            tab.click()
            assert page.evaluate(UNNAMED) == []
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        page.evaluate("openPanel(shown.store.features[0].key, true)")
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate("page.panel.getBoundingClientRect().right") <= width
        assert page.evaluate("page.panel.scrollWidth") <= page.evaluate("page.panel.clientWidth")


def test_what_is_hostile_is_shown_as_text(opened, tmp_path):
    root = FeatureSpec(
        key="video", id_columns=[HOSTILE[1], HOSTILE[0]], containers=[ContainerSpec(key="a", code_version=HOSTILE[0])]
    )
    others = [
        FeatureSpec(
            key=f"f{number}",
            deps=[FeatureDep(key="video", rename={HOSTILE[1]: "one", HOSTILE[0]: f"two {text}"})],
            containers=[ContainerSpec(code_version=text)],
            id_columns=["one", f"two {text}"],
        )
        for number, text in enumerate(HOSTILE)
    ]
    tagged = FeatureSpec(key="tagged")
    graph = FeatureGraph.from_specs([root, tagged, *others])
    store = InMemoryMetadataStore(tags={f"t{number}": text[:900] for number, text in enumerate(HOSTILE)})
    with graph.use():
        run(store, tagged, 0, is_computed=True)
    facts = store_facts(store, graph=graph, states=False)
    facts = msgspec.structs.replace(facts, location=HOSTILE[0], notes=list(HOSTILE), chain=[HOSTILE[0], HOSTILE[1]])
    path = tmp_path / "hostile.html"
    write_page([facts, msgspec.structs.replace(facts, location=HOSTILE[1])], path)
    with opened(path) as page:
        for key in graph.specs:
            page.evaluate("key => openPanel(key, true)", str(key))
        page.click("g.box >> nth=0")
        assert HOSTILE[1] in page.text_content("#panel")
        for tab in page.locator("[role=tab]").all():
            tab.click()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 6
        assert page.evaluate("document.scrollingElement.scrollWidth") <= LAPTOP


def test_a_browser_refuses_what_is_not_part_of_the_page(opened, reports):
    with opened(reports(5), is_innocent=False) as page:
        failed = []
        page.on("requestfailed", lambda request: failed.append(request.failure))
        refused = page.evaluate(
            """() => new Promise((resolve) => {
              const refused = [];
              document.addEventListener("securitypolicyviolation", (event) => {
                refused.push(event.effectiveDirective);
                if (refused.length === 3) resolve(refused.sort());
              });
              const script = Object.assign(document.createElement("script"), { textContent: "window.hacked = 1" });
              const image = Object.assign(new Image(), { src: "https://example.com/x.png" });
              document.body.append(script, image);
              fetch("https://example.com/").catch(() => null);
              setTimeout(() => resolve(refused), 10_000);
            })"""
        )
        assert refused == ["connect-src", "img-src", "script-src-elem"]
        assert set(failed) == {"csp"}
        assert page.evaluate("window.hacked") is None


def test_stores_stand_side_by_side(opened, tmp_path):
    made = pipeline(5)
    other = InMemoryMetadataStore()
    with made.graph.use() as graph:
        run(other, graph.specs[next(iter(graph.specs))], 0, is_computed=True)
    path = tmp_path / "two.html"
    facts = [store_facts(each, graph=made.graph, states=True) for each in (made.store, other)]
    write_page([msgspec.structs.replace(each, location=name) for each, name in zip(facts, "ab", strict=True)], path)
    with opened(path) as page:
        page.click("#tab-stores")
        assert page.locator("thead th").all_text_contents() == ["Feature", "a", "b"]
        page.select_option("#store", "1")
        page.click("#tab-graph")
        page.click("g.box[aria-label^='video/files:']")
        assert page.locator("#panel h3").last.text_content() == "In other stores"
        assert page.text_content("#panel section:last-child td:first-child") == "a"
