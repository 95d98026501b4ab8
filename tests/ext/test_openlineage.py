"""What OpenLineage is told fits the schemas that it publishes, and no job depends on it."""

import json
import logging
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import polars as pl
import pytest

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureSpec, InMemoryMetadataStore, open_store
from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.versioning.columns import DATA_VERSION

pytest.importorskip("openlineage.client", reason="needs the extra openlineage")
jsonschema = pytest.importorskip("jsonschema")
from openlineage.client import OpenLineageClient  # noqa: E402
from openlineage.client.serde import Serde  # noqa: E402
from referencing import Registry, Resource  # noqa: E402

from metaxy_fs.ext import openlineage  # noqa: E402

SCHEMAS = {
    path.stem: json.loads(path.read_text()) for path in sorted(Path(__file__).with_name("openlineage").glob("*.json"))
}
REGISTRY = Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values())

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key="video")):
        pass

    class Faces(Feature, spec=FeatureSpec(key="video/faces", deps=[FeatureDep(key="video")])):
        pass


VIDEOS = pl.DataFrame({"sample_id": [1, 2], DATA_VERSION: [{"default": "v1"}] * 2})


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch):
    """No configuration, before and after: the client turns OPENLINEAGE_URL into variables that it leaves behind."""
    for name in variables():
        monkeypatch.delenv(name)
    yield
    for name in variables():
        del os.environ[name]


def variables():
    return [name for name in os.environ if name.startswith("OPENLINEAGE")]


class Listener:
    """A transport that keeps what it is told."""

    def __init__(self):
        self.events = []
        self.transport = self

    def emit(self, event):
        text = Serde.to_json(event)
        found = json.loads(text)
        check(found)
        self.events.append(found)


def check(event):
    """Hold an event and its facets against the published schemas."""

    def validate(value, schema):
        jsonschema.Draft202012Validator(schema, registry=REGISTRY, format_checker=jsonschema.FormatChecker()).validate(
            value
        )

    validate(event, {"$ref": SCHEMAS["OpenLineage"]["$id"] + "#/$defs/RunEvent"})
    datasets = [*event["inputs"], *event["outputs"]]
    groups = [event["run"]["facets"], *(each["facets"] for each in datasets)]
    groups += [each["outputFacets"] for each in event["outputs"]]
    for facet in (facet for group in groups for facet in group.values()):
        validate(facet, {"$ref": facet["_schemaURL"]})


def test_the_check_refuses_what_does_not_fit():
    with pytest.raises(jsonschema.ValidationError):
        check({"eventTime": "yesterday", "run": {"facets": {}}, "inputs": [], "outputs": []})


@pytest.fixture(params=["memory", "disk"])
def store(request, tmp_path):
    store = InMemoryMetadataStore() if request.param == "memory" else open_store(str(tmp_path))
    store.write_metadata(Video, VIDEOS)
    return store


def test_a_job_tells_what_it_made_of_what(store):
    listener = Listener()
    made = openlineage.materialize(
        store, Faces, lambda batch: batch.select("sample_id", faces=1), client=listener, namespace="nightly"
    )
    (event,) = listener.events
    assert made.counts.written == 2
    assert event["eventType"] == "COMPLETE"
    assert event["job"] == {"namespace": "nightly", "name": "video/faces", "facets": {}}
    counts = event["run"]["facets"]["metaxyFs_counts"]
    assert counts["counts"] == made.counts._asdict()
    (source,), (target,) = event["inputs"], event["outputs"]
    assert source["name"] == f"{store.location}/video"
    assert target["name"] == f"{store.location}/video/faces"
    assert [field["name"] for field in target["facets"]["schema"]["fields"]] == ["sample_id", "faces", DATA_VERSION]
    definition = target["facets"]["version"]["datasetVersion"]
    assert store.history(Faces)["partition"].to_list() == [definition]
    assert target["facets"]["metaxyFs_versions"]["codeVersions"] == {"default": "1"}
    assert target["outputFacets"]["outputStatistics"]["rowCount"] == 2


def test_a_write_tells_its_rows(store):
    listener = Listener()
    openlineage.write_metadata(store, Video, VIDEOS.lazy(), client=listener, tags={"run": "1"})
    (event,) = listener.events
    assert event["run"]["facets"]["metaxyFs_counts"]["counts"] == {"written": 2}
    assert store.history(Video)["tags"][-1] == '{"run":"1"}'


def test_a_failure_is_told_and_raised(store):
    listener = Listener()
    with pytest.raises(MetadataSchemaError):
        openlineage.write_metadata(store, Video, VIDEOS.drop(DATA_VERSION), client=listener)
    (event,) = listener.events
    assert event["eventType"] == "FAIL"
    assert event["run"]["facets"]["errorMessage"]["message"].startswith("MetadataSchemaError: ")


def test_a_failure_is_told_without_the_password_in_a_url():
    listener = Listener()

    def fail(_batch):
        raise OSError("no answer from postgresql://me:of-mine@host/db")

    with pytest.raises(OSError, match="of-mine"):
        openlineage.materialize(InMemoryMetadataStore(), Video, fail, samples=VIDEOS, client=listener)
    (event,) = listener.events
    assert event["run"]["facets"]["errorMessage"]["message"] == "OSError: no answer from postgresql://host/db"


def test_a_feature_without_rows_has_no_schema():
    listener, store = Listener(), InMemoryMetadataStore()
    openlineage.materialize(store, Video, lambda batch: batch, samples=VIDEOS.clear(), client=listener)
    assert listener.events[0]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 0


def test_a_listener_that_fails_fails_no_job(store, caplog):
    class Broken:
        def emit(self, event):
            raise ConnectionError("nobody there")

    with caplog.at_level(logging.WARNING, logger="metaxy_fs"):
        openlineage.write_metadata(store, Video, VIDEOS, client=Broken())
    assert store.read_metadata(Video).height == 4
    assert "OpenLineage was not told of video: ConnectionError: nobody there" in caplog.text


def test_nothing_is_sent_unless_configured(store, monkeypatch, capfd):
    monkeypatch.setattr(OpenLineageClient, "emit", lambda *_: pytest.fail("sent"))
    openlineage.write_metadata(store, Video, VIDEOS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["url", "file", "variables"])
def test_the_environment_configures_the_client(tmp_path, monkeypatch, how):
    told = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        if how == "url":
            monkeypatch.setenv("OPENLINEAGE_URL", url)
        elif how == "variables":
            monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
            monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", url)
        else:
            (tmp_path / "openlineage.yml").write_text(f"transport:\n  type: http\n  url: {url}\n")
            monkeypatch.setenv("OPENLINEAGE_CONFIG", str(tmp_path / "openlineage.yml"))
        openlineage.write_metadata(InMemoryMetadataStore(), Video, VIDEOS)
        server.shutdown()
    (event,) = told
    event["run"]["facets"].pop("tags")  # the client's own, of its version
    check(event)


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("s3://bucket/metadata", ("s3://bucket", "metadata/video/faces")),
        ("gs://bucket", ("gs://bucket", "video/faces")),
        ("/data/root", ("file", "/data/root/video/faces")),
    ],
)
def test_datasets_are_named_as_files_are(location, named):
    class Elsewhere(InMemoryMetadataStore):
        @property
        def location(self):
            return location

    listener = Listener()
    openlineage.materialize(Elsewhere(), Video, lambda batch: batch, samples=VIDEOS, client=listener)
    output = listener.events[0]["outputs"][0]
    assert (output["namespace"], output["name"]) == (named[0], named[1].replace("/faces", ""))


def test_upstream_is_named_where_it_is_read():
    class Elsewhere(InMemoryMetadataStore):
        location = "s3://prod/metadata"

    prod, listener = Elsewhere(), Listener()
    prod.write_metadata(Video, VIDEOS)
    store = InMemoryMetadataStore(fallback_stores=[prod])
    openlineage.materialize(store, Faces, lambda batch: batch, client=listener)
    [event] = listener.events
    assert [each["namespace"] for each in (*event["inputs"], *event["outputs"])] == ["s3://prod", "file"]


def test_a_database_names_its_tables():
    class Database(InMemoryMetadataStore):
        def dataset_of(self, key):
            return "postgres://host:5432", f"lab.public.metaxy__{key}"

    listener = Listener()
    openlineage.write_metadata(Database(), Video, VIDEOS, client=listener)
    output = listener.events[0]["outputs"][0]
    assert (output["namespace"], output["name"]) == ("postgres://host:5432", "lab.public.metaxy__video")
