"""Tags that a store gives to all of its commits."""

import pytest

from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore, open_store
from metaxy_fs.testing.store_cases import pipeline, samples, videos
from metaxy_fs.testing.store_tags import tags_of

OPEN = {
    "memory": lambda _path, tags: InMemoryMetadataStore(tags=tags),
    "files": lambda path, tags: FilesystemMetadataStore(path / "root", tags=tags),
    "chain": lambda path, tags: open_store(path / "root", path / "fallback", tags=tags),
}


@pytest.mark.parametrize("opened", OPEN.values(), ids=OPEN)
def test_every_commit_has_the_tags_of_its_store(tmp_path, opened):
    video, _ = pipeline()
    given = {"host": "a", "run": "1"}
    store = opened(tmp_path, given)
    given["run"] = "changed later"
    store.write_metadata(video, videos([1]))
    store.write_metadata(video, videos([2]), tags={"run": "2", "more": "x"})
    store.create_snapshot("s")
    store.retire(video, samples([1]), "bad")
    store.restore(video, at="s", tags={"host": "b"})
    assert tags_of(store, video) == [
        {"host": "a", "run": "1"},
        {"host": "a", "run": "2", "more": "x"},
        {"host": "a", "run": "1", "reason": "bad"},
        {"host": "b", "run": "1"},
    ]


@pytest.mark.parametrize("opened", OPEN.values(), ids=OPEN)
def test_tags_of_a_store_are_checked_when_it_is_opened(tmp_path, opened):
    with pytest.raises(ValueError, match="'my run'"):
        opened(tmp_path, {"my run": "x"})


def test_tags_of_a_store_and_of_a_call_are_counted_together(tmp_path):
    video, _ = pipeline()
    store = FilesystemMetadataStore(tmp_path, tags={f"a{number}": "" for number in range(20)})
    with pytest.raises(ValueError, match="at most 32 tags, got 40"):
        store.write_metadata(video, videos([1]), tags={f"b{number}": "" for number in range(20)})
    assert not store.has_feature(video)
    store.write_metadata(video, videos([1]), tags={f"a{number}": "own" for number in range(20)})


def test_fallback_stores_keep_their_own_tags(tmp_path):
    video, _ = pipeline()
    prod = FilesystemMetadataStore(tmp_path / "prod", tags={"place": "prod"})
    dev = open_store(tmp_path / "dev", prod, tags={"place": "dev"})
    prod.write_metadata(video, videos([1]))
    assert dev.read_metadata(video, with_commits="tags")["commit_tags"].to_list() == ['{"place":"prod"}']
    dev.write_metadata(video, videos([1]))
    assert tags_of(dev, video) == [{"place": "dev"}]
