"""Fixtures of the tests of the command line."""

import os
from pathlib import Path

import pytest

from metaxy_fs.cli.demo import declare_features
from metaxy_fs.cli.main import main
from metaxy_fs.metadata_store import open_store

LONG_AGO = 1_600_000_000


@pytest.fixture
def notes(tmp_path):
    """A directory of two texts, in a directory of one, which were last modified long ago."""
    directory = tmp_path / "notes"
    write(directory / "eggs.txt", "Green eggs and ham,\ngreen eggs\n")
    write(directory / "sub" / "ham.txt", "ham")
    return directory


@pytest.fixture
def demo(capsys, notes):
    """Run the demo on the notes, and return what it printed on stdout."""

    def run(*options: str) -> str:
        capsys.readouterr()
        assert main(["demo", str(notes), *options]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def rows(notes):
    """Return the latest rows of `files` or `texts` by path."""

    def read(name: str, root: str | None = None) -> dict[str, dict]:
        feature = getattr(declare_features(), name)
        frame = open_store(root or str(notes / ".metaxy")).read_metadata(feature, latest_only=True)
        return {row["path"]: row for row in frame.to_dicts()}

    return read


@pytest.fixture
def bucket(s3_server, s3_bucket, monkeypatch):
    """The URL of a bucket that the environment leads to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    return s3_server.url(s3_bucket)


def write(path: Path, content: str | bytes, *, seconds: int = LONG_AGO) -> None:
    """Write a file as of a time, in seconds since 1970."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, (seconds, seconds))
