"""A root that was copied without some samples has no byte of them, and answers as if they had never been."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import (
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    MetadataSchemaError,
    ObjectExistsError,
    WriteConflictError,
    compact,
    copy_metadata,
    vacuum,
    verify,
)

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), id_columns=["video_id"])):
        """A feature."""

    class Frames(
        Feature,
        spec=FeatureSpec(key=FeatureKey(["video", "frames"]), id_columns=["video_id", "frame"]),
    ):
        """What is made from it."""

    class Other(Feature, spec=FeatureSpec(key=FeatureKey(["other"]), id_columns=["other_id"])):
        """Something else."""


ERASED = ["zq-erase-me-aaaa", "zq-erase-me-mmmm", "zq-erase-me-zzzz"]
"""The first, one in the middle and the last of all ids: bounds and split points of the source tell of them."""
KEPT = [f"zq-{place:05}" for place in range(4000)]
FRAME = 7_314_159_265
"""The number of a frame that only an erased sample has."""


def videos(ids: list[str], take: str = "") -> pl.DataFrame:
    ids = sorted(ids)
    return pl.DataFrame(
        {"video_id": ids, "data_version": [{"default": f"v{take}"}] * len(ids), "path": [f"{each}.mp4" for each in ids]}
    )


def frames(ids: list[str], numbers: list[int]) -> pl.DataFrame:
    rows = [(each, number) for each in sorted(ids) for number in numbers]
    return pl.DataFrame(rows, schema={"video_id": pl.String, "frame": pl.Int64}, orient="row").with_columns(
        data_version=pl.struct(default=pl.lit("f"))
    )


def strings_of(value: object) -> Iterator[str]:
    """All that a decoded value says."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from strings_of(key)
            yield from strings_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings_of(each)
    else:
        yield str(value)


def parquet_says(path: Path) -> Iterator[str]:
    """All values of a Parquet file, and all that its footer says."""
    yield from strings_of(pl.read_parquet(path).to_dicts())
    yield from strings_of(pl.read_parquet_metadata(path))
    footer = pq.ParquetFile(path).metadata
    yield str(footer.to_dict())
    for key, value in (footer.metadata or {}).items():
        yield f"{key.decode()} {value.decode(errors='replace')}"


def everything_said(root: Path) -> Iterator[tuple[Path, str]]:
    """Every name and every byte below a root as text, and what its files say once they are decoded."""
    for path in sorted(root.rglob("*")):
        yield path, str(path.relative_to(root))
        if path.is_file():
            yield path, path.read_bytes().decode("latin-1")
            if path.suffix == ".json":
                yield from ((path, text) for text in strings_of(json.loads(path.read_bytes())))
            elif path.suffix == ".parquet":
                yield from ((path, text) for text in parquet_says(path))


def traces(root: Path, *words: str) -> set[str]:
    """The files below a root that hold a word, in letters of either width or as a number of eight bytes."""
    spellings = {word: [word, word.encode("utf-16-le").decode("latin-1")] for word in words}
    for word in words:
        if word.isdigit():
            spellings[word] += [int(word).to_bytes(8, order).decode("latin-1") for order in ("little", "big")]
    pattern = re.compile("|".join(re.escape(each) for several in spellings.values() for each in several))
    return {path.name for path, text in everything_said(root) if pattern.search(text)}


@pytest.fixture
def source(tmp_path: Path) -> FilesystemMetadataStore:
    """A root with everything that a root can hold, in which the erased samples are the first and the last."""
    store = FilesystemMetadataStore(tmp_path / "source")
    store.write_metadata(Video, videos([*KEPT, *ERASED]), write_id="import")
    store.write_metadata(Frames, frames(KEPT[:20], [1, 2]), tags={"run": "1"})
    store.write_metadata(Other, pl.DataFrame({"other_id": ["zq-other"], "data_version": [{"default": "o"}]}))
    for store_again in range(3):
        store.write_metadata(Video, videos([ERASED[store_again]], "again"), write_id=f"again {store_again}")
        store.write_metadata(Frames, frames([ERASED[store_again]], [FRAME, FRAME + 1]))
    store.create_snapshot("release")
    compact(store, full=True)
    for _ in range(2):
        vacuum(store, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
    store.write_metadata(Video, videos([KEPT[0], ERASED[1]], "later"), write_id="later")
    store.retire(Video, pl.DataFrame({"video_id": [ERASED[0], KEPT[1]]}), reason="asked to")
    store.write_metadata(Video, videos([KEPT[2]], "last"))
    return store


def without(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(~pl.col("video_id").is_in(ERASED))


def excluded() -> pl.DataFrame:
    return pl.DataFrame({"video_id": ERASED})


def test_no_byte_of_the_copy_tells_of_an_erased_sample(source: FilesystemMetadataStore, tmp_path: Path) -> None:
    words = [*ERASED, "zq-erase-me", str(FRAME), str(FRAME + 1)]
    assert traces(Path(source.location), *words), "the search finds what is there"
    target = FilesystemMetadataStore(tmp_path / "target")
    copied = copy_metadata(source=source, target=target, exclude=excluded())
    assert copied.left_out == 3 + 3 + 1 + 1 + 6
    assert copied.snapshots == 1
    assert traces(tmp_path / "target", *words) == set()
    assert verify(target).is_sound
    compact(target, full=True)
    assert traces(tmp_path / "target", *words) == set()


@pytest.mark.parametrize(
    ("word", "tables"), [(ERASED[0], set[str]()), (ERASED[2], {"table"}), (str(FRAME + 1), {"table"})]
)
def test_the_search_finds_a_word_wherever_it_is(source: FilesystemMetadataStore, word: str, tables: set[str]) -> None:
    kinds = {re.sub(r".*\.", "", name) for name in traces(Path(source.location), word)}
    assert kinds == {"json", "parquet"} | tables


def test_the_copy_answers_as_if_they_had_never_been(source: FilesystemMetadataStore) -> None:
    target = InMemoryMetadataStore()
    copy_metadata(source=source, target=target, exclude=excluded())
    assert target.list_features() == source.list_features()
    moments = list(source.history(Video)["time"])
    for then, now in [
        (source, target),
        (source.at("release"), target.at("release")),
        *((source.at(moment), target.at(moment)) for moment in moments),
    ]:
        for latest_only in (False, True):
            expected = without(then.read_metadata(Video, latest_only=latest_only, with_commits=True))
            assert_frame_equal(now.read_metadata(Video, latest_only=latest_only, with_commits=True), expected)
    assert_frame_equal(target.read_metadata(Frames), without(source.read_metadata(Frames)))
    assert_frame_equal(target.read_metadata(Other), source.read_metadata(Other))
    for feature in (Video, Frames):
        told = ["time", "commit", "write_id", "tags", "writer", "partition"]
        assert_frame_equal(target.history(feature).select(told), source.history(feature).select(told))
    assert target.history(Video)["rows"].sum() == without(source.read_metadata(Video)).height
    assert target.history(Video)["retired"].to_list().count(1) == 1


def test_a_repetition_adds_nothing_and_later_commits_are_added(source: FilesystemMetadataStore) -> None:
    target = InMemoryMetadataStore()
    first = copy_metadata(source=source, target=target, exclude=excluded())
    assert first.added == first.commits
    again = copy_metadata(source=source, target=target, exclude=excluded())
    assert (again.added, again.files, again.left_out, again.snapshots) == (0, 0, 0, 1)
    compact(source, full=True)
    assert copy_metadata(source=source, target=target, exclude=excluded()).added == 0
    source.write_metadata(Video, videos([KEPT[5], ERASED[0]], "new"))
    source.create_snapshot("second")
    later = copy_metadata(source=source, target=target, exclude=excluded())
    assert (later.added, later.left_out, later.snapshots) == (1, 1, 2)
    assert_frame_equal(target.at("second").read_metadata(Video), without(source.at("second").read_metadata(Video)))


def test_a_retry_of_a_named_write_does_nothing(source: FilesystemMetadataStore) -> None:
    target = InMemoryMetadataStore()
    copy_metadata(source=source, target=target, exclude=excluded())
    before = target.read_metadata(Video, with_commits=True)
    target.write_metadata(Video, videos([*KEPT, *ERASED]), write_id="import")
    target.write_metadata(Video, videos([KEPT[0], ERASED[1]], "later"), write_id="later")
    assert_frame_equal(target.read_metadata(Video, with_commits=True), before)
    with pytest.raises(WriteConflictError):
        target.write_metadata(Video, videos([KEPT[0]], "later"), write_id="later")


def test_each_feature_can_have_ids_of_its_own(source: FilesystemMetadataStore) -> None:
    target = InMemoryMetadataStore()
    ids = pl.DataFrame({"video_id": [ERASED[0]], "frame": [FRAME], "store": ["x"], "retired": [False]})
    nothing = pl.DataFrame({"other_id": []})
    copied = copy_metadata(source=source, target=target, exclude={Frames: ids, "other": nothing, "nobody": nothing})
    assert copied.left_out == 1
    assert_frame_equal(target.read_metadata(Video), source.read_metadata(Video))
    assert target.read_metadata(Frames).height == source.read_metadata(Frames).height - 1


def test_a_root_is_copied_whole(source: FilesystemMetadataStore) -> None:
    target = InMemoryMetadataStore()
    copied = copy_metadata(source=source, target=target)
    assert (copied.left_out, copied.snapshots) == (0, 1)
    for feature in (Video, Frames, Other):
        assert_frame_equal(target.history(feature), source.history(feature))
        assert_frame_equal(target.at("release").read_metadata(feature), source.at("release").read_metadata(feature))
    assert copy_metadata(source=source, target=target, which="latest").snapshots == 0


def test_what_a_snapshot_sees_is_copied_with_it_alone(source: FilesystemMetadataStore) -> None:
    source.create_snapshot("second")
    target = InMemoryMetadataStore()
    assert copy_metadata(source=source, target=target, snapshot="release").snapshots == 1
    assert target.list_snapshots()["name"].to_list() == ["release"]
    assert_frame_equal(target.at("release").read_metadata(Video), source.at("release").read_metadata(Video))


def test_frames_that_name_no_samples_are_refused_before_anything_is_copied(source: FilesystemMetadataStore) -> None:
    target = InMemoryMetadataStore()

    def refused(exclude: object, kind: type[Exception], match: str) -> None:
        with pytest.raises(kind, match=match):
            copy_metadata(source=source, target=target, exclude=exclude)  # type: ignore[arg-type]
        assert not target.list_features()

    refused(pl.DataFrame({"sample_id": ["a"]}), MetadataSchemaError, r"\['video_id', 'frame'\] \(video/frames\)")
    refused(pl.DataFrame({"video_id": ["a", None]}), MetadataSchemaError, "nulls")
    refused(pl.DataFrame(), MetadataSchemaError, "no columns")
    refused({"video/frames": excluded()}, MetadataSchemaError, r"lacks the id columns \['frame'\]")
    refused({"video/scenes": excluded()}, FeatureNotFoundError, "video/scenes")
    refused(pl.DataFrame({"video_id": [1]}), MetadataSchemaError, "Give ids of the type that is stored")
    refused({Other: pl.DataFrame({"other_id": [1]}), Video: excluded()}, MetadataSchemaError, "feature 'other'")
    refused({Video: excluded(), Frames: excluded().with_columns(frame=pl.lit("1"))}, MetadataSchemaError, "'frame'")
    refused({"video": [1]}, MetadataSchemaError, "Give ids of the type that is stored")
    refused({"video": "a"}, MetadataSchemaError, r"write \['a'\] for one")
    refused(["a"], MetadataSchemaError, "Expected a Polars DataFrame")


def test_ids_that_nanoseconds_tell_apart_are_erased_one_by_one() -> None:
    source, target = InMemoryMetadataStore(), InMemoryMetadataStore()
    times = pl.Series([1_000_001, 1_000_002], dtype=pl.Int64).cast(pl.Datetime("ns"))
    with FeatureGraph.from_specs([FeatureSpec(key="take", id_columns=["at"])]).use():
        source.write_metadata("take", pl.DataFrame({"at": times, "data_version": [{"default": "v"}] * 2}))
    assert copy_metadata(source=source, target=target, exclude=pl.DataFrame({"at": times[1:]})).left_out == 1
    assert target.read_metadata(FeatureKey(["take"]))["at"].cast(pl.Int64).to_list() == [1_000_001]


def test_rows_that_a_trace_cannot_find_are_not_copied_in_silence() -> None:
    """They were written when the feature named its samples by other columns."""
    frame = pl.DataFrame({"sample_id": ["a", "b"], "data_version": [{"default": "1"}] * 2})
    with FeatureGraph().use():

        class Film(Feature, spec=FeatureSpec(key=FeatureKey(["film"]))):
            pass

        was = FeatureDep(key=Film.spec.key, rename={"sample_id": "film_id"})
        made = FeatureDep(key=Film.spec.key)

    store, target = InMemoryMetadataStore(), InMemoryMetadataStore()
    store.write_metadata(Film, frame)
    before = FeatureSpec(key="thumb", deps=[was], id_columns=["film_id"])
    with FeatureGraph.from_specs([Film.spec, before]).use():
        store.write_metadata("thumb", frame.rename({"sample_id": "film_id"}))
    with FeatureGraph.from_specs([Film.spec, FeatureSpec(key="thumb", deps=[made])]).use():
        found = store.trace("film", ["a"]).rows
        assert not found["thumb"].height
        with pytest.raises(MetadataSchemaError, match=r"'thumb' lacks the id columns \['film_id'\]"):
            copy_metadata(source=store, target=target, exclude=found)
    assert not target.list_features()
    ids = {"film": pl.DataFrame({"sample_id": ["a"]}), "thumb": pl.DataFrame({"film_id": ["a"]})}
    assert copy_metadata(source=store, target=target, exclude=ids).left_out == 2


def test_a_target_that_has_them_is_refused(source: FilesystemMetadataStore) -> None:
    target = InMemoryMetadataStore()
    copy_metadata(Video, source=source, target=target)
    with pytest.raises(ObjectExistsError, match="copy into a new root") as caught:
        copy_metadata(source=source, target=target, exclude=excluded())
    assert caught.value.feature == "video"


def test_an_empty_root_is_no_source() -> None:
    with pytest.raises(FeatureNotFoundError, match="no rows of any feature"):
        copy_metadata(source=InMemoryMetadataStore(), target=InMemoryMetadataStore())


@pytest.mark.parametrize("service", ["s3", "gcs"])
def test_a_bucket_is_copied_without_them_to_another_place(
    source: FilesystemMetadataStore, request: pytest.FixtureRequest, tmp_path: Path, service: str
) -> None:
    server, bucket = (request.getfixturevalue(f"{service}_{what}") for what in ("server", "bucket"))
    old, new = (
        FilesystemMetadataStore(server.url(bucket, name), storage_options=server.storage_options)
        for name in ("old", "new")
    )
    copy_metadata(source=source, target=old)
    copy_metadata(source=old, target=new, exclude=excluded())
    back = FilesystemMetadataStore(tmp_path / "back")
    copy_metadata(source=new, target=back)
    assert traces(tmp_path / "back", *ERASED, str(FRAME)) == set()
    for feature in (Video, Frames, Other):
        assert_frame_equal(back.history(feature), new.history(feature))
        assert_frame_equal(back.at("release").read_metadata(feature), new.at("release").read_metadata(feature))
    assert_frame_equal(
        back.read_metadata(Video, with_commits=True), without(source.read_metadata(Video, with_commits=True))
    )
