"""Make a root what one was before types were agreed on: its writers take columns in conflict."""

import msgspec

from metaxy_fs.storage.base import Storage


def forget_types(storage: Storage) -> None:
    """Take away what the writers to all partitions have agreed on."""
    for info in storage.list(""):
        if "/_types/" in info.path:
            storage.delete(info.path)
        elif info.path.endswith("/_definition.json"):
            description = msgspec.json.decode(storage.get(info.path))
            description.pop("columns", None)
            storage.delete(info.path)
            storage.put(info.path, msgspec.json.encode(description))
