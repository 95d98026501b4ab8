"""Daft reads, by the code of the page, the rows that the library reads; `nox -s daft` runs this."""

import re
from pathlib import Path

import pytest

pytest.importorskip("daft", reason="daft is not installed")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "many-machines.md"


@pytest.mark.filterwarnings("ignore")  # Daft's own
def test_the_source_of_the_page_gives_the_rows_of_its_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job, *others = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [source] = [block for block in others if "import daft" in block]
    names = {"__name__": "__main__"}
    for block in (job, "from metaxy_fs import ReadTask", source):
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102  # what the page shows
    rows = names["peaks"].sort("sample_id").to_pydict()
    assert rows["sample_id"] == list(range(1_000))
    assert rows["peaks"] == names["store"].read_metadata("peaks", latest_only=True).sort("sample_id")["peaks"].to_list()
