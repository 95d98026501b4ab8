"""The paths of all objects of a root.

    _store.json                                       what the whole root has in common
    _snapshots/<name>.json                            which commits some moment saw
    _clock/<token>                                    put and deleted at once, to learn the time of the storage
    video.processing/0123456789abcdef/                one partition: a feature under one version of its definition
        _definition.json                              the declaration that produced it
        _types/<n>.json                               types of columns that were agreed on later, from 1 on
        <commit>-<n>.parquet                          data files
        _manifests/appends/<commit>.json              one write each
        _manifests/compactions/<commit>.json          each stands for many writes
        _commits/<commit>.table                       the commits that a compaction stands for, in Parquet
        _vacuum/<id>.json                             what a vacuum has noted for the next one
        _writes/<commit>.json                         a named write that a compaction stands for; writers look there
        _decisions/<commit>.json                      which rows a name stands for that a write and a copy both took
        _copies/<commit>.json                         a compaction that a copy brings, until its manifest is there
        _damaged/<commit>/<checksum>.json             what repair has replaced; nobody else looks there

    video.processing/_delta_log/<n>.json              what a feature is published as; other engines read it

`appends` sorts before `compactions`, so that a listing of `_manifests` sees every append that some compaction it sees
stands for, or that compaction itself. All paths are relative to the root; this is the only module that makes or takes
apart one.

Readers look at manifests alone. Who verifies, repairs or vacuums a partition looks at everything that is there.
"""

import re
from collections import defaultdict
from typing import Any, Final

import msgspec

from metaxy_fs.storage.base import ObjectInfo, Storage

STORE_FILE = "_store.json"
CLOCK = "_clock"
SNAPSHOTS = "_snapshots"
"""The directory of all snapshots."""

MAX_FEATURE_LENGTH = 200

_FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*")
_VERSION = re.compile(r"[0-9a-f]{16}")
_COMMIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TOKEN = re.compile(r"[0-9a-f]{16}")
_SUBDIRECTORY = re.compile(
    r"|/_manifests/(appends|compactions)|/_commits|/_writes|/_decisions|/_copies|/_types|/_vacuum|/_damaged/[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
)
_DATA_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.parquet")
# No pattern that finds data files finds a table: neither `*.parquet` nor `**/*.parquet`.
_TABLE = re.compile(rf"_commits/(?P<commit>{_COMMIT.pattern})\.table")
_EARLIER_TABLE = re.compile(r"(?P<commit>.+)-commits\.parquet")
# Of macOS, NFS, FUSE, rsync, Syncthing and editors; of Hadoop; of Synology. None of them can be a commit.
_STRAY_DIRECTORY = re.compile(r"[.~#].*|.*_\$folder\$|@eaDir", re.DOTALL)
# Also of editors; rclone; Syncthing; Google's and Amazon's command lines; Windows. None of them ends as an object does.
_STRAY_FILE = re.compile(
    rf"{_STRAY_DIRECTORY.pattern}|.*~|.*\.partial|.*\.tmp|.*_\.gstmp|.*\.[0-9A-Fa-f]{{8}}|(?i:thumbs\.db|desktop\.ini)",
    re.DOTALL,
)
_DIRECTORIES = (["_manifests"], ["_manifests", "appends"], ["_manifests", "compactions"])


class Partition(msgspec.Struct, frozen=True, order=True):
    """All rows of one feature that were written under one version of its definition.

    Attributes:
        feature: The parts of the feature's key joined by `.`.
        version: The first 16 hex digits of the definition's data version.
    """

    feature: str
    version: str

    def __str__(self) -> str:
        return f"{self.feature}/{self.version}"

    @property
    def definition_file(self) -> str:
        """The path of the description."""
        return f"{self}/_definition.json"

    def types_file(self, number: int) -> str:
        """Return the path of the types that were agreed on after the description, as the `number`-th, from 1 on."""
        return f"{self}/_types/{number}.json"

    @property
    def manifests(self) -> str:
        """The directory of all manifests."""
        return f"{self}/_manifests"

    def append_manifest(self, commit: str) -> str:
        """Return the path of the manifest of one write."""
        return f"{self.manifests}/appends/{commit}.json"

    def compaction_manifest(self, commit: str) -> str:
        """Return the path of a manifest that stands for many writes."""
        return f"{self.manifests}/compactions/{commit}.json"

    def vacuum_record(self, name: str) -> str:
        """Return the path of what a vacuum has noted for the next one."""
        return f"{self}/_vacuum/{name}.json"

    def kept_write(self, commit: str) -> str:
        """Return the path of the copy of a named write's manifest, which outlives the manifest."""
        return f"{self}/_writes/{commit}.json"

    @property
    def decisions(self) -> str:
        """The directory of what is decided about names."""
        return f"{self}/_decisions"

    def decided_write(self, commit: str) -> str:
        """Return the path at which is decided for which rows the name of a write stands."""
        return f"{self.decisions}/{commit}.json"

    def copy_mark(self, commit: str) -> str:
        """Return the path of what says that a copy brings a compaction, whose table is there before its manifest."""
        return f"{self}/_copies/{commit}.json"

    def damaged_manifest(self, commit: str, checksum: str) -> str:
        """Return the path at which repair keeps what was in the place of a manifest."""
        return f"{self}/_damaged/{commit}/{checksum}.json"

    def data_file(self, name: str) -> str:
        """Return the path of a data file or a commit table; the name of the latter has its directory."""
        return f"{self}/{name}"


def delta_log(feature: str) -> str:
    """Return the directory of the Delta log of a feature."""
    return f"{feature}/_delta_log"


def delta_version(feature: str, version: int) -> str:
    """Return the path of one version in the Delta log of a feature."""
    return f"{delta_log(feature)}/{version:020}.json"


def delta_checkpoint(feature: str, version: int) -> str:
    """Return the path of all that the Delta log of a feature says up to a version."""
    return f"{delta_log(feature)}/{version:020}.checkpoint.parquet"


def version_of_delta(path: str, feature: str) -> tuple[int, bool] | None:
    """Return the version that an object of a Delta log is of, and whether it is a checkpoint; None for any other."""
    found = _DELTA.fullmatch(path.removeprefix(f"{delta_log(feature)}/"))
    return None if found is None else (int(found["version"]), found["kind"] == "checkpoint.parquet")


def clock_probe(token: str) -> str:
    """Return the path of an object that is there for a moment, so that the storage tells the time."""
    return f"{CLOCK}/{token}"


def is_clock_probe(path: str) -> bool:
    """Whether a path is that of an object which asked the storage for its time."""
    directory, _, name = path.rpartition("/")
    return directory == CLOCK and _TOKEN.fullmatch(name) is not None


def holds_objects(directory: str) -> bool:
    """Whether objects of this format lie in a directory itself, and so what their puts leave that were cut short."""
    if directory in ("", CLOCK, SNAPSHOTS):
        return True
    feature, _, rest = directory.partition("/")
    if rest == "_delta_log":
        return is_feature_directory(feature)
    version, slash, below = rest.partition("/")
    is_partition = is_feature_directory(feature) and is_partition_directory(version)
    return is_partition and _SUBDIRECTORY.fullmatch(slash + below) is not None


def feature_of(path: str) -> str | None:
    """Return the feature that an object belongs to, None where it belongs to the whole root."""
    feature, separator, _ = path.partition("/")
    return feature if separator and is_feature_directory(feature) else None


def is_feature_directory(name: str) -> bool:
    """Whether a directory of a root can be that of a feature; other people may keep other things there."""
    return len(name) <= MAX_FEATURE_LENGTH and _FEATURE.fullmatch(name) is not None


def is_partition_directory(name: str) -> bool:
    """Whether a directory below a feature's can be a partition."""
    return _VERSION.fullmatch(name) is not None


def is_data_file_name(name: str) -> bool:
    """Whether a name stays inside its partition and cannot be mistaken for a path, a URL or a hidden file."""
    return _DATA_FILE.fullmatch(name) is not None


def is_table_name(name: str) -> bool:
    """Whether a name can be that of a commit table; earlier versions put it among the data files."""
    return _TABLE.fullmatch(name) is not None or is_data_file_name(name)


def is_commit(text: str) -> bool:
    """Whether a string can be the id of a commit."""
    return _COMMIT.fullmatch(text) is not None


def is_snapshot_name(text: str) -> bool:
    """Whether a string can be the name of a snapshot."""
    return _COMMIT.fullmatch(text) is not None


def snapshot_file(name: str) -> str:
    """Return the path of a snapshot."""
    return f"{SNAPSHOTS}/{name}.json"


def snapshot_of(path: str) -> str | None:
    """Return the name of the snapshot at a path, None for any other path."""
    name = path.removeprefix(f"{SNAPSHOTS}/").removesuffix(".json")
    return name if is_snapshot_name(name) and path == snapshot_file(name) else None


def commit_table(commit: str) -> str:
    """Return the name, within the partition, of the table of the commits that a compaction stands for."""
    return f"_commits/{commit}.table"


def compaction_of_table(name: str) -> str | None:
    """Return the compaction whose commit table has a name, None for any other data file."""
    found = _TABLE.fullmatch(name) or _EARLIER_TABLE.fullmatch(name)
    return found["commit"] if found is not None and is_commit(found["commit"]) else None


def owners_of_data_file(name: str) -> tuple[str, str]:
    """Return the commits that a data file may be of, by its name; those of named writes have a token after it."""
    if (compaction := compaction_of_table(name)) is not None:
        return compaction, compaction
    stem = name.rpartition("-")[0]
    return stem, stem.rpartition("-")[0]


def commit_of_append(path: str, partition: Partition) -> str | None:
    """Return the commit that an append manifest's path names, None for any other path."""
    return _commit_of(path, f"{partition.manifests}/appends/")


def commit_of_compaction(path: str, partition: Partition) -> str | None:
    """Return the commit that a compaction manifest's path names, None for any other path."""
    return _commit_of(path, f"{partition.manifests}/compactions/")


def is_stray(path: str, partition: Partition, *, size: int) -> bool:
    """Whether an object of a partition is one that systems and tools put anywhere; no object of the format looks so.

    Args:
        path: The path of the object.
        partition: Where it is.
        size: Its size: an empty object in the place of a directory is how consoles of object stores mark one.
    """
    *directories, name = parts = path.removeprefix(f"{partition}/").split("/")
    if size == 0 and (not name or parts in _DIRECTORIES):
        return True
    return _STRAY_FILE.fullmatch(name) is not None or any(map(_STRAY_DIRECTORY.fullmatch, directories))


def _commit_of(path: str, prefix: str) -> str | None:
    suffix = ".json"
    commit = path.removeprefix(prefix).removesuffix(suffix)
    return commit if path == f"{prefix}{commit}{suffix}" and is_commit(commit) else None


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """The objects of one partition as one listing shows them.

    Attributes:
        partition: Whose objects these are.
        definition: Its description.
        appends: The manifests of single writes, by commit.
        compactions: Those that stand for many, by commit.
        data: The data files and commit tables, by name.
        types: The types of columns that were agreed on after the description, by number.
        records: What vacuums have noted.
        copies: What says that a copy brings a compaction, by that.
        damaged: What repair found in the place of manifests and keeps as evidence, by commit.
        misplaced: What is below `_manifests` and is no manifest; readers refuse the partition because of it.
        stray: What systems and tools put anywhere; readers pass over it, also below `_manifests`.
        strange: What is none of the objects of a partition; readers do not look at it.
    """

    partition: Partition
    definition: ObjectInfo | None
    appends: dict[str, ObjectInfo]
    compactions: dict[str, ObjectInfo]
    data: dict[str, ObjectInfo]
    types: dict[int, ObjectInfo]
    records: tuple[ObjectInfo, ...]
    copies: dict[str, ObjectInfo]
    damaged: dict[str, ObjectInfo]
    misplaced: tuple[ObjectInfo, ...]
    stray: tuple[ObjectInfo, ...]
    strange: tuple[ObjectInfo, ...]


def take_inventory(storage: Storage, partition: Partition) -> Inventory:
    """Return what a partition holds; appends are listed before compactions (see `metaxy_fs.log.layout`)."""
    found: dict[str, dict[Any, ObjectInfo]] = defaultdict(dict)
    for info in storage.list(str(partition)):
        kind, key = _kind_of(info, partition)
        found[kind][key] = info
    return Inventory(
        partition=partition,
        definition=found["definition"].get("_definition.json"),
        appends=found["appends"],
        compactions=found["compactions"],
        data=found["data"],
        types=found["types"],
        records=tuple(found["records"].values()),
        copies=found["copies"],
        damaged=found["damaged"],
        misplaced=tuple(found["misplaced"].values()),
        stray=tuple(found["stray"].values()),
        strange=tuple(found["strange"].values()),
    )


_DELTA: Final = re.compile(r"(?P<version>[0-9]{20})\.(?P<kind>json|checkpoint\.parquet)")
_OBJECT: Final = re.compile(
    rf"(?P<definition>_definition\.json)|(?P<data>{_DATA_FILE.pattern}|_commits/{_COMMIT.pattern}\.table)"
    rf"|_manifests/appends/(?P<appends>{_COMMIT.pattern})\.json"
    rf"|_manifests/compactions/(?P<compactions>{_COMMIT.pattern})\.json"
    rf"|(?P<misplaced>_manifests/.*)"
    rf"|_damaged/(?P<damaged>{_COMMIT.pattern})/.*\.json"
    rf"|_copies/(?P<copies>{_COMMIT.pattern})\.json"
    rf"|_types/(?P<types>[1-9][0-9]*)\.json"
    rf"|(?P<records>_vacuum/.*\.json)"
    rf"|(?P<writes>(?:_writes|_decisions)/{_COMMIT.pattern}\.json)",
    re.DOTALL,
)
"""What each object of a partition is called below it; groups are named as in `Inventory`."""


def _kind_of(info: ObjectInfo, partition: Partition) -> tuple[str, str | int]:
    """Return which attribute of `Inventory` an object belongs to, and its key there."""
    if is_stray(info.path, partition, size=info.size):
        return "stray", info.path
    found = _OBJECT.fullmatch(info.path.removeprefix(f"{partition}/"))
    if found is None or found.lastgroup is None:
        return "strange", info.path
    key = found[found.lastgroup]
    return found.lastgroup, int(key) if found.lastgroup == "types" else key


def all_partitions(storage: Storage, *, feature: str | None = None) -> list[Partition]:
    """Return every partition that there is, sorted, also those that hold no commit.

    Args:
        storage: The root.
        feature: The parts of a feature's key joined by `.`; all features by default.
    """
    features = storage.list_directories("") if feature is None else [feature]
    return [
        Partition(name, version)
        for name in features
        if is_feature_directory(name)
        for version in storage.list_directories(name)
        if is_partition_directory(version)
    ]
