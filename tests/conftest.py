"""Servers, buckets and settings that all tests share."""

import os

# All of this is set before anything imports fsspec's filesystems, which read it on import. Processes that tests start
# inherit it.
# gcsfs would otherwise ask Google's control plane for the layout of each bucket, and wait about a minute for an answer.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# A region in the options of a client makes `mkdir` fail on moto, so it comes from here.
os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
# Credentials that open nothing, and no search for others: a test that misses its server must reach nobody's account.
os.environ["AWS_ACCESS_KEY_ID"] = "test"
os.environ["AWS_SECRET_ACCESS_KEY"] = "test"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.pop("AWS_SESSION_TOKEN", None)
os.environ.pop("AWS_PROFILE", None)
# What a command prints must not depend on the width of the terminal that the tests were started in.
os.environ["COLUMNS"] = "80"

import signal

# A shell's background job ignores Ctrl-C, and so does all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import ObjectServer
from tests.servers.gcs import GCSServer
from tests.servers.s3 import S3Server

# Examples that talk to a server or to a disk take as long as the machine pleases, and so does making some.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same code gets the same examples, and so the same verdict; the other profiles look for new ones.
settings.register_profile("default", patient, derandomize=True)
settings.register_profile("random", patient)
settings.register_profile("thorough", patient, max_examples=1_000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


QUICK = (
    "tests/spec/",
    "tests/versioning/",
    "tests/log/test_schema.py",
    "tests/log/test_sealing.py",
    "tests/log/test_statistics.py",
    "tests/log/test_stray.py",
    "tests/log/test_clock_skew.py",
    "tests/log/test_forged_compactions.py",
    "tests/log/test_resolve.py",
    "tests/log/test_sharing.py",
    "tests/log/test_view.py",
    "tests/log/test_shared_objects.py",
    "tests/log/test_commit.py",
    "tests/log/test_partition.py",
    "tests/log/test_root.py",
    "tests/log/test_types.py",
    "tests/log/test_columns.py",
    "tests/log/test_footer.py",
    "tests/log/test_matching.py",
    "tests/log/test_fetch.py",
    "tests/storage/",
    "tests/metadata_store/test_arrow.py",
    "tests/metadata_store/test_bad_arguments.py",
    "tests/metadata_store/test_frames.py",
    "tests/metadata_store/test_memory.py",
    "tests/test_",
)
"""Where the tests of single modules are."""
SLOW = (
    "spec/test_pickles.py",
    "versioning/test_execution.py",
    "versioning/test_increment_model.py",
    "versioning/test_lineage.py",
    "versioning/test_relations.py",
    "storage/test_objects.py",
    "storage/test_obstore.py",
    "storage/test_cache.py",
    "storage/test_no_listing.py",
    "tests/test_interrupts.py",
)
"""Modules there that take seconds, or ask for their servers by name."""
SERVED = frozenset({"s3_server", "gcs_server", "server", "bucket"})
"""Fixtures of tests that need a server."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run ask for the numbers that docs/reliability.md states; they take minutes each."""
    parser.addoption("--soak", action="store_true", help="as many kills, faults and minutes as the docs state")
    parser.addoption("--quick", action="store_true", help="the tests of single modules, which need no server, alone")


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark of tests that take minutes and state no number."""
    config.addinivalue_line("markers", "soak: run with --soak alone, because a part of it runs always")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for `--soak` alone and, with `--quick`, what is not of the quick lane."""
    chosen = items if config.getoption("--soak") else [item for item in items if not item.get_closest_marker("soak")]
    if config.getoption("--quick"):
        chosen = [item for item in chosen if _is_quick(item, top=config.rootpath)]
    if len(chosen) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


def _is_quick(item: pytest.Item, *, top: Path) -> bool:
    path = item.path.relative_to(top).as_posix()
    needed: list[str] = getattr(item, "fixturenames", [])
    return path.startswith(QUICK) and not path.endswith(SLOW) and SERVED.isdisjoint(needed)


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether tests take the numbers that the docs state, instead of those that fit a quick run."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session", autouse=True)
def unsynced_disk() -> Iterator[None]:
    """A disk that this process does not wait for: no test pulls the plug, and a sync takes longer than most tests.

    Those who ask when something is synced put a function of their own in the place of this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which fails as a sync does where the descriptor is none
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 endpoint on loopback."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GCSServer]:
    """A GCS endpoint on loopback."""
    with GCSServer() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[str]:
    """The name of a bucket of this test's own, on a server with no recorded requests."""
    yield from _fresh_bucket(s3_server)


@pytest.fixture
def gcs_bucket(gcs_server: GCSServer) -> Iterator[str]:
    """The name of a bucket of this test's own, on a server with no recorded requests."""
    yield from _fresh_bucket(gcs_server)


@pytest.fixture(params=["s3", "gcs"])
def server(request: pytest.FixtureRequest) -> ObjectServer:
    """An endpoint on loopback of each kind."""
    found: ObjectServer = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def bucket(request: pytest.FixtureRequest, server: ObjectServer) -> str:
    """The name of a bucket of this test's own, on a server with no recorded requests."""
    name: str = request.getfixturevalue("s3_bucket" if server.scheme == "s3" else "gcs_bucket")
    return name


def _fresh_bucket(server: ObjectServer) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    server.create_bucket(name)
    server.clear_requests()
    yield name
    server.allow()
