"""Play a night on call: somebody has a shell, a root and no Python, and each question takes one command.

The root is on a disk or in a bucket, and no configuration leads to it: nothing is declared, all is read from the root.
"""

import json
import re

import fsspec
import polars as pl
import pytest

from metaxy_fs import ContainerSpec, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore
from metaxy_fs.cli.main import main
from metaxy_fs.spec import FeatureDep

VIDEO = FeatureSpec(key=FeatureKey(["video", "raw"]))
FACES = FeatureSpec(
    key=FeatureKey(["video", "faces"]), deps=[FeatureDep(key=VIDEO.key)], containers=[ContainerSpec(code_version=7)]
)

QUESTIONS = {
    "which features are there": ("list", r"video/faces +1 +2 .*\nvideo/raw +2 +4 "),
    "when was one last written": ("list video/raw", r"last\n.*20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ\n"),
    "how large is it": ("list video/raw", r"bytes .*\n.* [\d,]{5} "),
    "what is the row of a sample": ("show video/raw b", r"\nb +40 +default=b2\n$"),
    "what was it before": ("show video/raw b --all", r"\nb +20 +default=b1\nb +40 +default=b2\n$"),
    "which rows look odd": ("show video/raw --where size>=30 --columns sample_id", r"sample_id\n(b\nc|c\nb)\n$"),
    "what is made from what": ("graph", r"video/faces: default 7\n└─ video/raw: default 1\n"),
    "is there a picture of it": ("graph --format svg", r"^<svg[\s\S]*video/faces"),
    "which code wrote this partition": ("definitions video/faces", r"\n[0-9a-f]{16} +default 7 +"),
    "how far is the job": ("status video/faces", r"new +stale .*\nvideo/faces +1 +1 +0 +0 +1 +2 "),
    "what did it write, and when": ("history video/raw", r"(\n20\d\d-.*){2}"),
    "who wrote it": ("history video/faces", r'"job":"nightly"'),
    "which writes may be repeated": ("history video/raw", r" batch-2 "),
    "is anything stale": ("status --exit-code", r"video/faces +1 +1 "),
    "why is this sample stale": ("explain video/faces b", r"b' is stale[\s\S]*video/raw"),
    "what will the next run compute": ("plan", r"2 samples to compute[\s\S]*video/faces +1 +1 "),
    "which snapshots are there": ("snapshot list", r"monday +20\d\d"),
    "what changed since then": ("diff --before monday", r"video/raw: .*1 changed"),
    "what was made from this bad sample": ("trace video/raw b", r"video/faces: 1 sample"),
    "what was this made from": ("trace video/faces b --up", r"video/raw: 1 sample"),
    "does it wait for a compaction": ("compact", r"^nothing is due \(3 commits not compacted\)\n"),
    "may anything be removed": ("vacuum", r"^nothing to remove\n"),
    "is it sound": ("verify", r"all is as it should be\n"),
    "is it what we trained on": ("check --against trained.json", r"video/raw"),
}
"""Each with the command, and what answers it."""

BAD = {"is anything stale", "is it what we trained on"}


def write(store, spec, rows, **options):
    with FeatureGraph.from_specs([VIDEO, FACES]).use():
        store.write_metadata(spec.key, rows, **options)


def videos(*rows):
    ids, sizes, versions = zip(*rows, strict=True)
    return pl.DataFrame({"sample_id": ids, "size": sizes, "data_version": [{"default": each} for each in versions]})


@pytest.fixture(params=["a disk", "S3", "GCS"])
def root(request, tmp_path, monkeypatch):
    """A root with three videos, of which one was replaced after the faces of two were found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAXY_FS_CONFIG", "")
    monkeypatch.setenv("METAXY_FS_STORE", "")
    place = str(tmp_path / "root")
    if request.param == "S3":
        place = request.getfixturevalue("bucket")
    elif request.param == "GCS":
        server = request.getfixturevalue("gcs_server")
        monkeypatch.setitem(fsspec.config.conf, "gs", server.storage_options)
        place = server.url(request.getfixturevalue("gcs_bucket"))
    store = FilesystemMetadataStore(place)
    write(store, VIDEO, videos(("a", 10, "a1"), ("b", 20, "b1"), ("c", 30, "c1")), write_id="batch-1")
    with FeatureGraph.from_specs([VIDEO, FACES]).use():
        pending = store.resolve_update(FACES.key).pending
    write(store, FACES, pending.filter(pl.col("sample_id") < "c"), tags={"job": "nightly"})
    store.create_snapshot("monday")
    store.fingerprint().save("trained.json")
    write(store, VIDEO, videos(("b", 40, "b2")), write_id="batch-2")
    return place


def test_each_question_takes_one_command(root, capsys):
    unanswered = []
    for question, (line, expected) in QUESTIONS.items():
        code = main([*line.split(), "--root", root])
        captured = capsys.readouterr()
        if (code, captured.err) != (int(question in BAD), "") or not re.search(expected, captured.out):
            unanswered.append((question, code, *captured))
    assert unanswered == []


def test_programs_ask_them_too(root, capsys):
    lines = {line for line, _ in QUESTIONS.values() if "svg" not in line}
    for line in sorted(lines):
        main([*line.split(), "--root", root, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert line.startswith(document["command"])
        assert [answer["store"] for answer in document["answers"]] == [root]
