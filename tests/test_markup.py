"""What others wrote stays text in HTML: a parser of its own finds the same cells, and no element more."""

from html.parser import HTMLParser

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from metaxy_fs.markup import drawing, folded, fragment, note, printable, table

HOSTILE = st.one_of(
    st.text(), st.sampled_from(["</script><script>", '"><img src=x onerror=1>', "</style>", "\0\u202e", "&lt;"])
)


class Page(HTMLParser):
    """Notes elements, attributes and the texts between tags."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.texts.append("")

    def handle_endtag(self, tag):
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data


@settings(max_examples=50)
@given(st.lists(HOSTILE, min_size=1, max_size=4), HOSTILE)
def test_cells_titles_and_notes_are_text(cells, title):
    page = Page(fragment(title, table(pl.DataFrame({"name": cells})), folded(title, note(title))))
    plain = Page(fragment("t", table(pl.DataFrame({"name": ["a"] * len(cells)})), folded("t", note("t"))))
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    shown = [text for text in page.texts if text and not text.startswith(".metaxy-fs")]
    expected = [title, "name", *cells, title, title]
    assert shown == [printable(text) for text in expected if text]


def test_rows_that_are_left_out_are_counted():
    assert "2,990 more rows" in table(pl.DataFrame({"n": range(3000)}))
    assert "more" not in table(pl.DataFrame({"n": range(3)}))


def test_a_long_cell_is_cut():
    assert len(table(pl.DataFrame({"text": ["a" * 1_000_000]}))) < 1_000


def test_a_picture_is_not_escaped():
    assert drawing("<svg></svg>") == '<div class="drawing"><svg></svg></div>'
