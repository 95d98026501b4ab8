"""Fingerprints are equal where the ids and versions are, and nowhere else."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import (
    ContainerSpec,
    CorruptObjectError,
    FeatureGraph,
    FeatureNotFoundError,
    FeatureSpec,
    Fingerprint,
    InMemoryMetadataStore,
    UnsupportedFormatError,
    compact,
    copy_metadata,
    open_store,
)

CONTAINERS = ["frames", "audio"]
VIDEO = FeatureSpec(
    key="video/raw", id_columns=["title", "take"], containers=[ContainerSpec(key=name) for name in CONTAINERS]
)
GRAPH = FeatureGraph.from_specs([VIDEO])
ids = st.tuples(st.sampled_from(["", "a", "é|", "s1:a", "a|frames|v"]), st.sampled_from([0, -1, 7, 2**40]))
versions = st.tuples(*[st.sampled_from(["v", "w", "é", "x", "1:v"])] * len(CONTAINERS))
states = st.dictionaries(ids, versions, max_size=6)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def expected(state):
    """The digest of a feature, from the formula in words."""
    buckets = {}
    for (title, take), made in state.items():
        name = f"i{len(str(take))}:{take}s{len(title.encode())}:{title}"
        row = name + "".join(f"|{part}|{made[CONTAINERS.index(part)]}" for part in sorted(CONTAINERS))
        buckets.setdefault(sha256(name)[:3], []).append(sha256(row))
    text = json.dumps(["take", "title"], separators=(",", ":"))
    return sha256(text + "".join(f"|{name}|{sha256(''.join(sorted(buckets[name])))}" for name in sorted(buckets)))


def frame(state, dtype=pl.Int64, **columns):
    made = [dict(zip(CONTAINERS, each, strict=True)) for each in state.values()]
    return pl.DataFrame(
        {"title": [title for title, _ in state], "take": [take for _, take in state], "data_version": made},
        schema={
            "title": pl.String,
            "take": dtype,
            "data_version": pl.Struct(dict.fromkeys(CONTAINERS, pl.String)),
        },
    ).with_columns(**columns)


def store_of(*states, store=None, **columns):
    store = InMemoryMetadataStore() if store is None else store
    with GRAPH.use():
        for state in states:
            store.write_metadata("video/raw", frame(state, **columns))
    return store


def taken(store, **options):
    with GRAPH.use():
        return store.fingerprint(["video/raw"], **options)


@given(states)
def test_digest_is_that_of_the_formula(state):
    found = taken(store_of(state))
    assert found.features["video/raw"].digest == expected(state)
    assert found.features["video/raw"].samples == len(state)
    assert found.digest == sha256(f"video/raw|{expected(state)}\n")


@given(states, states, st.data())
def test_it_is_equal_if_and_only_if_ids_and_versions_are(one, other, data):
    parts = data.draw(st.permutations(list(other.items())))
    cut = data.draw(st.integers(0, len(parts)))
    replaced = {name: ("old", "old") for name, _ in parts[cut:]}
    there = store_of(dict(parts[:cut]) | replaced, dict(parts[cut:]), note=pl.lit("x"))
    assert (taken(store_of(one)) == taken(there)) == (one == other)


@given(states, states)
def test_check_names_samples_among_which_is_all_that_changed_or_came(then, now):
    found = store_of(now).check(taken(store_of(then)))
    assert bool(found) == (then == now)
    named = set(found.samples("video/raw").rows())
    assert named >= {name for name in now if then.get(name) != now[name]}
    assert named <= {
        name for name in now if sha256(text(name))[:3] in {sha256(text(n))[:3] for n in changed(then, now)}
    }
    [row] = found.features.rows(named=True)
    assert (row["samples_then"], row["samples_now"]) == (len(then), len(now))


def text(name):
    return f"i{len(str(name[1]))}:{name[1]}s{len(name[0].encode())}:{name[0]}"


def changed(then, now):
    return [name for name in then.keys() | now.keys() if then.get(name) != now.get(name)]


@given(states)
def test_json_gives_it_back(state):
    found = taken(store_of(state))
    assert Fingerprint.from_json(found.to_json()) == found


def test_compaction_copy_and_width_of_integers_make_no_difference(tmp_path):
    parts = [{(f"t{n}", n): (f"f{n}", f"a{n}")} for n in range(12)]
    store = store_of(*parts, store=open_store(tmp_path / "one"))
    first = taken(store)
    compact(store)
    copied = open_store(tmp_path / "two")
    with GRAPH.use():
        copy_metadata("video/raw", source=store, target=copied)
    narrow = InMemoryMetadataStore()
    with GRAPH.use():
        narrow.write_metadata("video/raw", pl.concat([frame(part, pl.Int32) for part in parts]))
    assert first == taken(store) == taken(copied) == taken(narrow)


def test_order_of_rows_in_a_bucket_makes_no_difference():
    state = {(f"t{n}", n): (f"f{n}", f"a{n}") for n in range(20_000)}
    backwards = dict(reversed(state.items()))
    found = taken(store_of(dict(list(backwards.items())[:9_000]), dict(list(backwards.items())[9_000:])))
    assert len(found.features["video/raw"].buckets) < len(state) / 4
    assert found.features["video/raw"].digest == expected(state)


def test_retired_samples_do_not_count():
    store = store_of({("a", 1): ("v", "v"), ("b", 1): ("v", "v")})
    with GRAPH.use():
        store.retire("video/raw", pl.DataFrame({"title": ["b"], "take": [1]}))
    assert taken(store) == taken(store_of({("a", 1): ("v", "v")}))


def test_moment_has_the_fingerprint_of_then():
    store = store_of({("a", 1): ("v", "v")})
    store.create_snapshot("then")
    then, at = taken(store), datetime.now(UTC) + timedelta(hours=30)
    store_of({("a", 1): ("w", "v")}, store=store)
    assert taken(store, at="then") == then != taken(store) == taken(store, at=at)
    assert store.at("then").check(then)


def test_definition_that_was_fingerprinted_is_checked_without_its_code():
    store = store_of({("a", 1): ("v", "v")})
    then = taken(store)
    other = FeatureSpec(key="video/raw", id_columns=VIDEO.id_columns, containers=[ContainerSpec(code_version=2)])
    with FeatureGraph.from_specs([other]).use():
        rows = pl.DataFrame({"title": ["a"], "take": [1], "data_version": [{"default": "v"}]})
        store.write_metadata("video/raw", rows)
        assert store.check(then)
        assert store.fingerprint(["video/raw"]) != then
    with FeatureGraph().use():
        assert InMemoryMetadataStore(fallback_stores=[store]).check(then)
        assert store.check(store.fingerprint())


def test_feature_that_is_gone_is_missing():
    found = InMemoryMetadataStore().check(taken(store_of({("a", 1): ("v", "v")})))
    assert found.features["status"].to_list() == ["missing"]
    assert found.samples("video/raw").height == 0
    assert "video/raw: no rows, there were 1" in str(found)
    with pytest.raises(FeatureNotFoundError):
        taken(InMemoryMetadataStore())


def test_saved_file_is_read_back(tmp_path):
    found = taken(store_of({("a", 1): ("v", "v")}))
    found.save(tmp_path / "f.json")
    assert Fingerprint.load(tmp_path / "f.json") == found


def test_file_that_holds_none_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CorruptObjectError, match=r"notes\.txt: This is no fingerprint"):
        Fingerprint.load(tmp_path / "notes.txt")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"features":{},"more":1}', '{"features":{"a":{}}}', b"\xff"])
def test_other_json_is_refused(text):
    with pytest.raises(CorruptObjectError, match="no fingerprint"):
        Fingerprint.from_json(text)


def test_a_path_is_no_fingerprint():
    with pytest.raises(TypeError, match=r"Fingerprint.load.*'train.json'"):
        InMemoryMetadataStore().check("train.json")


def test_newer_format_is_refused():
    with pytest.raises(UnsupportedFormatError, match="format version 2"):
        Fingerprint.from_json('{"features":{},"format_version":2,"more":1}')
