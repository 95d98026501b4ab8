"""Does this version read what every earlier one wrote?"""

import hashlib
import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import FilesystemMetadataStore
from tests.golden.contents import FACES, FIRST, SECOND, Faces, Video

ROOTS = sorted(Path(__file__).parent.glob("format-*"))


@pytest.fixture(params=ROOTS, ids=lambda root: root.name)
def root(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_there_is_a_golden_root() -> None:
    assert [path.name for path in ROOTS] == ["format-1"]


def test_rows_come_back_as_they_were_written(root: Path) -> None:
    expected = pl.concat([FIRST, SECOND], how="diagonal_relaxed")
    assert_frame_equal(FilesystemMetadataStore(root).read_metadata(Video), expected)


def test_versions_are_those_of_the_formula(root: Path) -> None:
    rows = FilesystemMetadataStore(root).read_metadata(Faces)
    assert rows["sample_id"].to_list() == ["a", "ü"]
    assert rows["faces"].to_list() == sorted(FACES["faces"].to_list())
    preimages = [f"default|1|video_raw/frames|{version}" for version in ("f0", "f2")]
    expected = [hashlib.sha256(preimage.encode()).hexdigest() for preimage in preimages]
    assert rows["data_version"].struct.field("default").to_list() == expected


def test_an_increment_goes_on_from_them(root: Path) -> None:
    increment = FilesystemMetadataStore(root).resolve_update(Faces)
    assert (increment.new["sample_id"].to_list(), increment.stale.height, increment.orphaned.height) == (["b"], 0, 0)


def test_a_retried_write_finds_itself_and_new_ones_go_beside(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "root")
    store = FilesystemMetadataStore(tmp_path / "root")
    store.write_metadata(Faces, store.calculate_data_versions(Faces, FACES), write_id="job 7")
    assert store.read_metadata(Faces).height == 2
    store.write_metadata(Video, FIRST.head(1))
    assert store.read_metadata(Video, latest_only=True)["sample_id"].to_list() == ["ü", "b", "a"]
