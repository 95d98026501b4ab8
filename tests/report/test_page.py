"""The file of the report: facts are data in it, whatever they hold, and nothing in it comes from elsewhere."""

import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import FeatureGraph, FeatureSpec, FilesystemMetadataStore, write_report
from metaxy_fs.cli.main import main
from metaxy_fs.report.facts import StoreFacts
from metaxy_fs.report.page import page_of
from tests.report.test_facts import rows
from tests.support.examples import examples

ASSETS = files("metaxy_fs.report") / "assets"
OWN = [each for each in ASSETS.iterdir() if each.is_file()]
STRANGE = ["</script><script>", "<!--<script", "-->", "]]>", "\u2028", "\0", "\u202e", '"', "\\u003c", "$facts", "${x}"]
STRINGS = st.text() | st.sampled_from(STRANGE) | st.lists(st.sampled_from(STRANGE)).map("".join)


class Parsed(HTMLParser):
    """The elements of a page, and what the scripts hold."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.attributes = [], {}, []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]

    def handle_data(self, data):
        self.texts[len(self.tags)] = self.texts.get(len(self.tags), "") + data

    @property
    def facts(self):
        [text] = [text for text in self.texts.values() if text.startswith('{"version"')]
        return json.loads(text)


def facts(location="here", notes=(), chain=()):
    return StoreFacts(location, list(chain), is_declared=False, notes=list(notes), snapshots=[], features=[])


@examples(50)
@given(STRINGS, st.lists(STRINGS), st.lists(STRINGS))
def test_whatever_the_facts_hold_is_data(location, notes, chain):
    page, plain = Parsed(page_of([facts(location, notes, chain)])), Parsed(page_of([facts()]))
    [store] = page.facts["stores"]
    assert (store["location"], store["notes"], store["chain"]) == (location, notes, chain)
    assert (page.tags, page.attributes) == (plain.tags, plain.attributes)


def test_the_policy_names_each_script_and_allows_nothing_else():
    page = Parsed(page_of([facts()]))
    [policy] = [value for tag, name, value in page.attributes if tag == "meta" and value and "default-src" in value]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("sha256-") == page.tags.count("script") - 1 + page.tags.count("style")  # facts are no script
    assert "unsafe" not in policy
    assert [value for _, name, value in page.attributes if name in ("src", "href")] == ["data:,"]


@pytest.mark.parametrize("asset", OWN, ids=lambda each: each.name)
def test_no_asset_makes_markup_of_a_string_or_names_another_place(asset):
    text = asset.read_text("utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|eval\(|Function\(", text) == []
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_layout_library_is_the_one_that_its_licences_name():
    licences = (ASSETS / "d3-dag" / "LICENSES.txt").read_text("utf-8")
    bundle = (ASSETS / "d3-dag" / "d3-dag.js").read_bytes()
    assert f"sha256: {hashlib.sha256(bundle).hexdigest()}" in licences
    assert "Copyright (c) 2018 Erik Brinkman" in licences
    assert "Copyright (c) 2018 Erik Brinkman" in page_of([facts()])


@pytest.fixture
def root(tmp_path):
    with FeatureGraph.from_specs([FeatureSpec(key="video")]).use():
        FilesystemMetadataStore(tmp_path / "root").write_metadata("video", rows(1, 2))
    return tmp_path / "root"


def test_the_command_writes_what_the_function_does(root, tmp_path, capsys):
    path = tmp_path / "report.html"
    assert main(["report", "--root", str(root), "--root", str(root), "-o", str(path)]) == 0
    assert re.fullmatch(rf"{re.escape(str(path))}: 2 features, [\d.]+ KiB\n", capsys.readouterr().out)
    [first, second] = Parsed(path.read_text("utf-8")).facts["stores"]
    assert first == second
    store = FilesystemMetadataStore(root)
    write_report([store, store], path)
    assert Parsed(path.read_text("utf-8")).facts["stores"] == [first, second]
    assert first["features"][0]["states"]["new"] == 0
    assert main(["report", "--root", str(root), "--no-states", "-o", str(path)]) == 0
    [alone] = Parsed(path.read_text("utf-8")).facts["stores"]
    assert alone["features"][0]["states"] is None


def test_a_file_that_cannot_be_written_is_said(root, tmp_path, capsys):
    assert main(["report", "--root", str(root), "-o", str(tmp_path / "gone" / "report.html")]) == 1
    assert "gone" in capsys.readouterr().err


def test_facts_are_decoded_as_they_were_encoded():
    decoded = msgspec.json.decode(msgspec.json.encode(facts("a")), type=StoreFacts)
    assert decoded == facts("a")
