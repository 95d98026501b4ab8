"""The work of methods that most jobs never call: its modules are imported at the first call.

Jobs start by the thousand, and what most of them do without would be a third of the time of the import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from metaxy_fs.metadata_store.diff import diff
    from metaxy_fs.metadata_store.explain import explain
    from metaxy_fs.metadata_store.fingerprint import check, fingerprint
    from metaxy_fs.metadata_store.materialize import How, materialize
    from metaxy_fs.metadata_store.plan import plan
    from metaxy_fs.metadata_store.prepared import commit_prepared, prepare_write
    from metaxy_fs.metadata_store.rebase import rebase
    from metaxy_fs.metadata_store.stored_graph import stored_graph
    from metaxy_fs.metadata_store.tasks import plan_read, plan_update
    from metaxy_fs.metadata_store.trace import trace

__all__ = [
    "How",
    "check",
    "commit_prepared",
    "diff",
    "explain",
    "fingerprint",
    "materialize",
    "plan",
    "plan_read",
    "plan_update",
    "prepare_write",
    "rebase",
    "stored_graph",
    "trace",
]

_ELSEWHERE: Final = {
    "How": "materialize",
    "check": "fingerprint",
    "commit_prepared": "prepared",
    "plan_read": "tasks",
    "plan_update": "tasks",
    "prepare_write": "prepared",
}
"""The modules of functions that are not called like them."""

if not TYPE_CHECKING:  # a type checker would take the function for a promise that there is every name

    def __getattr__(name: str) -> Any:
        """Return a function at its first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"metaxy_fs.metadata_store.{_ELSEWHERE.get(name, name)}")
        value = globals()[name] = getattr(module, name)
        return value
