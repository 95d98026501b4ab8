"""The stores that are asked for explanations."""

import uuid

import pytest

from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore


@pytest.fixture(params=["memory", "local", "fsspec"])
def make_store(request, tmp_path):
    """Opens stores of one kind, by their names."""
    prefix = uuid.uuid4().hex

    def make(name="", **options):
        if request.param == "memory":
            return InMemoryMetadataStore(**options)
        place = tmp_path / name if request.param == "local" else f"memory://{prefix}/{name}"
        return FilesystemMetadataStore(place, **options)

    return make


@pytest.fixture
def store(make_store):
    return make_store("main")
