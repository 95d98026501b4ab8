"""Files that cannot be opened are said to be that: neither damaged nor missing, and with what to do about it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMON = """
import json, os, resource, sys
from pathlib import Path
import polars as pl
from metaxy_fs import Feature, FeatureDep, FeatureKey, FeatureSpec, MetaxyError, open_store, verify

class Clip(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]))):
    pass

class Score(Feature, spec=FeatureSpec(key=FeatureKey(["score"]), deps=[FeatureDep(key=FeatureKey(["clip"]))])):
    pass

root, rows = Path(sys.argv[1]), int(sys.argv[2])

def write(start):
    ids = pl.DataFrame({"sample_id": range(start, start + rows)})
    digest = pl.col("sample_id").hash().cast(pl.String)
    versions = pl.struct(digest.alias("default")).alias("data_version")
    open_store(root).write_metadata(Clip, ids.with_columns(versions, noise=digest))

def told(ask):
    try:
        ask()
    except Exception as error:
        return [type(error).__name__, isinstance(error, MetaxyError), str(error)]

def read(store):
    return {
        "read": told(lambda: store.read_metadata(Clip)),
        "columns": told(lambda: store.read_metadata(Clip, columns=["noise"])),
        "resolve": told(lambda: store.resolve_update(Score)),
    }
"""

UNREADABLE = f"""{COMMON}
write(0)
known = open_store(root)
read(known)
for path in root.rglob("*.parquet"):
    path.chmod(0)
verify(known)  # whatever it imports, before this user has no right to
if os.geteuid() == 0:
    os.chmod(root, 0o755)
    os.setgid(12_345)
    os.setuid(12_345)
findings = [[each.severity, each.problem, each.remedy] for each in verify(open_store(root)).findings]
print(json.dumps({{"new": read(open_store(root)), "known": read(known), "findings": findings}}))
"""

FEW_DESCRIPTORS = f"""{COMMON}
for start in range(0, 40 * rows, rows):
    write(start)
known = open_store(root)
read(known)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
taken = []
try:
    while True:
        taken.append(open(os.devnull))
except OSError:
    taken.pop().close()
found = {{"known": read(known), "new": read(open_store(root))}}
# Threads give their descriptors back when they please, but none of them is below this limit.
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 128))
found["none"] = read(open_store(root)) | {{"write": told(lambda: write(0))}}
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
taken.clear()
print(json.dumps(found | {{"after": read(known)}}))
"""


def run(code: str, root: Path, *, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", code, str(root), str(rows)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A directory that every user may enter."""
    for directory in [tmp_path, *tmp_path.parents]:
        if directory.stat().st_uid == os.geteuid():
            directory.chmod(directory.stat().st_mode | 0o111)
    return tmp_path / "root"


@pytest.mark.parametrize("rows", [10, 20_000], ids=["small", "large"])
def test_a_data_file_without_permission_is_not_corrupt(open_path: Path, rows: int) -> None:
    found = run(UNREADABLE, open_path, rows=rows)
    for name, is_ours, message in [*found["new"].values(), *found["known"].values()]:
        assert (name, is_ours) == ("StorageAccessError", True), message
        assert "Check the permissions of this user" in message
    [(severity, problem, remedy)] = found["findings"]
    assert (severity, "Permission denied" in problem) == ("error", True)
    assert "verify again" in remedy


@pytest.mark.parametrize("rows", [10, 20_000], ids=["small", "large"])
def test_too_few_descriptors_are_named_with_what_to_do(tmp_path: Path, rows: int) -> None:
    found = run(FEW_DESCRIPTORS, tmp_path, rows=rows)
    # Small files are read one after the other, for which one descriptor is enough.
    met = [each for each in [*found["known"].values(), *found["new"].values()] if each is not None]
    assert met
    for name, is_ours, message in met + list(found["none"].values()):
        assert (name in {"StorageError", "NoRoomError"}, is_ours) == (True, True), message
        assert "ulimit -n" in message
    assert not any(found["after"].values())
