"""Cases of the tags of commits, which every kind of store keeps."""

import json
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError, WriteConflictError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.testing.store_cases import SAMPLE_ID, MakeStore, StoreCase, ids_of, pipeline, samples, videos

_RUN = {"run": "2026-11-28", "git": "3f2a9c1"}
_BAD_TAGS: dict[str, tuple[Any, type[Exception], str]] = {
    "no mapping": (["run"], TypeError, "mapping of strings"),
    "an empty name": ({"": "x"}, ValueError, "1 to 100 letters"),
    "a name with a space": ({"my run": "x"}, ValueError, "'my run'"),
    "a name with a line break": ({"run\n": "x"}, ValueError, "1 to 100 letters"),
    "a long name": ({"n" * 101: "x"}, ValueError, "1 to 100 letters"),
    "a name that is no string": ({1: "x"}, ValueError, "1 to 100 letters"),
    "a number": ({"run": 7}, ValueError, "'run'.*string.*7"),
    "a long value": ({"run": "x" * 1_001}, ValueError, "at most 1000 characters"),
    "half a character": ({"run": "\ud800"}, ValueError, "UTF-8"),
    "many": ({f"t{n}": "" for n in range(33)}, ValueError, "at most 32 tags, got 33"),
}


def tags_of(store: MetadataStore, feature: Any) -> list[dict[str, str] | None]:
    """Return the tags of each commit, in commit order."""
    return [None if text is None else json.loads(text) for text in store.history(feature)["tags"]]


class StoreTags(StoreCase):
    """Tests of tags."""

    def test_history_shows_the_tags_of_each_commit(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]), tags=_RUN)
        store.write_metadata(video, videos([2]))
        store.write_metadata(video, videos([3]), tags={})
        store.write_metadata(video, videos([4]), tags={"note": 'a "ü"\n'})

        assert tags_of(store, video) == [_RUN, None, None, {"note": 'a "ü"\n'}]
        assert store.history(video)["tags"][0] == '{"git":"3f2a9c1","run":"2026-11-28"}'
        of_run = pl.col("tags").str.json_path_match("$.run") == "2026-11-28"
        assert store.history(video).filter(of_run)["rows"].to_list() == [1]

    def test_every_way_to_write_takes_tags(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]).lazy(), tags=_RUN)
        store.calculate_and_write_data_versions(processed, samples([1]), tags=_RUN)
        store.calculate_and_write_data_versions(processed, samples([2]).lazy(), tags=_RUN)
        for write_id in (None, "job"):
            with store.buffered(video, write_id=write_id, tags=_RUN) as buffer:
                buffer.write(videos([3]))

        assert tags_of(store, video) == [_RUN] * 3
        assert tags_of(store, processed) == [_RUN] * 2

    def test_tags_are_no_part_of_a_named_write(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for run in ("first", "second"):
            store.write_metadata(video, videos([1]), write_id="job", tags={"run": run})

        assert tags_of(store, video) == [{"run": "first"}]
        with pytest.raises(WriteConflictError):
            store.write_metadata(video, videos([2]), write_id="job", tags={"run": "first"})

    @pytest.mark.parametrize("case", _BAD_TAGS.values(), ids=_BAD_TAGS)
    def test_tags_that_cannot_be_kept_are_refused(
        self, store: MetadataStore, case: tuple[Any, type[Exception], str]
    ) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        tags, error, message = case

        with pytest.raises(error, match=message):
            store.write_metadata(video, videos([2]), tags=tags)
        with pytest.raises(error, match=message):
            store.calculate_and_write_data_versions(processed, samples([1]), tags=tags)
        with pytest.raises(error, match=message), store.buffered(video, tags=tags):
            pass
        assert store.history(video).height == 1
        assert not store.has_feature(processed)

    def test_the_most_that_can_be_kept_is_kept(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        tags = {f"{n:02}" + "n" * 98: "ü" * 1_000 for n in range(32)}
        store.write_metadata(video, videos([1]), tags=tags)

        assert tags_of(store, video) == [tags]

    def test_rows_are_read_with_the_tags_of_their_commits(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]), tags=_RUN)
        store.write_metadata(video, videos([2, 3]))
        rows = store.read_metadata(video, with_commits="tags")

        assert rows.drop("commit_tags").equals(store.read_metadata(video, with_commits=True))
        assert rows.columns[-3:] == ["commit", "committed_at", "commit_tags"]
        assert [text and json.loads(text) for text in rows["commit_tags"]] == [_RUN, _RUN, None, None]
        latest = store.read_metadata(video, with_commits="tags", latest_only=True, columns=[SAMPLE_ID])
        assert dict(latest.select(SAMPLE_ID, pl.col("commit_tags").is_null()).iter_rows()) == {
            1: False,
            2: True,
            3: True,
        }

    def test_rows_are_chosen_by_the_tags_of_their_commits(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for sample in range(4):
            store.write_metadata(video, videos([sample]), tags={"run": f"r{sample % 2}"})
        odd = pl.col("commit_tags").str.json_path_match("$.run") == "r1"

        assert ids_of(store.read_metadata(video, with_commits="tags", filters=odd)) == [1, 3]
        assert ids_of(store.scan_metadata(video, with_commits="tags").filter(odd).collect()) == [1, 3]

    def test_commits_of_one_name_in_two_data_versions_have_their_own_tags(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        for feature, run in ((video, "before"), (bumped, "after")):
            store.write_metadata(feature, videos([1]), write_id="job", tags={"run": run})
        rows = store.read_metadata(video, versions="all", with_commits="tags")

        runs = rows["commit_tags"].str.json_path_match("$.run").to_list()
        assert runs == ["before", "after"]
        assert store.read_metadata(bumped, with_commits="tags")["commit_tags"].to_list() == ['{"run":"after"}']

    def test_tags_are_those_of_the_store_that_has_the_rows(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        prod = make_store("prod")
        prod.write_metadata(video, videos([1]), tags=_RUN)
        dev = make_store("dev", fallback_stores=[prod])

        assert dev.read_metadata(video, with_commits="tags")["commit_tags"].null_count() == 0

    def test_tags_are_seen_at_a_snapshot(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]), tags=_RUN)
        store.create_snapshot("s")
        store.write_metadata(video, videos([1]))

        assert tags_of(store.at("s"), video) == [_RUN]
        assert store.at("s").read_metadata(video, with_commits="tags")["commit_tags"].null_count() == 0

    def test_a_column_of_the_name_of_tags_is_not_hidden(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], tags=["mine"], commit_tags=["too"]), tags=_RUN)

        assert store.read_metadata(video)["tags"].to_list() == ["mine"]
        with pytest.raises(MetadataSchemaError, match="'commit_tags'"):
            store.read_metadata(video, with_commits="tags")
        kept = store.read_metadata(video, with_commits="tags", columns=[SAMPLE_ID, "tags"])
        assert kept["tags"].to_list() == ["mine"]

    def test_what_is_no_choice_of_commits_is_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        choice: Any = "tag"

        with pytest.raises(TypeError, match="""True, "tags" or False, got 'tag'"""):
            store.read_metadata(video, with_commits=choice)
