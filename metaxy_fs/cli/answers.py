"""What questions answer with --json: status, plan, graph, explain, trace and diff."""

from typing import Annotated, Final

import msgspec
import polars as pl

from metaxy_fs.cli.output import Answer, frame_of
from metaxy_fs.cli.targets import Target
from metaxy_fs.insight.diff import COUNTED
from metaxy_fs.insight.explanation import Status
from metaxy_fs.insight.plan import CAUSES, FEATURES
from metaxy_fs.metadata_store import Diff, Explanation, Plan, Trace
from metaxy_fs.reserved import DATA_VERSION
from metaxy_fs.spec import FeatureSpec

PENDING: Final = ("new", "stale", "waiting", "orphaned")
"""The states of samples that a status counts."""

_STATUS: Final = (
    {"feature": pl.String()}
    | {name: pl.Int64() for name in (*PENDING, "commits", "rows")}
    | {"last": pl.Datetime("us", "UTC")}
)
_TRACED_ROWS: Final = msgspec.Meta(
    extra_json_schema={
        "items": {
            "type": "object",
            "required": ["store", DATA_VERSION, "retired", "snapshots"],
            "properties": {
                "store": {"type": "string"},
                DATA_VERSION: {"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}},
                "retired": {"type": "boolean"},
                "snapshots": {"type": "array", "items": {"type": "string"}},
            },
        }
    }
)


class StatusAnswer(Answer, frozen=True, kw_only=True):
    """What `status` answers.

    Attributes:
        store: The store that was asked.
        rows: One for each feature, upstream first: `feature`; how many samples are `new`, `stale`, `waiting` and
            `orphaned` (null if the feature is stored, but not declared); how many `commits` and `rows` are stored, and
            the `last` write (null if nothing is).
        causes: Why samples are stale, each under one cause: `feature`, `cause` and `samples`.
        notes: What the graph lacks, where it was read from the store.
    """

    rows: Annotated[pl.DataFrame, frame_of(_STATUS, nullable=set(_STATUS) - {"feature"})]
    causes: Annotated[pl.DataFrame, frame_of(CAUSES)]
    notes: list[str]


class PlanAnswer(Answer, frozen=True, kw_only=True):
    """What `plan` answers.

    Attributes:
        store: The store that was asked.
        is_exact: Whether the counts are what the run will find.
        rows: One for each feature, upstream first: `feature`, `new`, `stale`, `after_upstream`, `waiting`, `orphaned`,
            `unknown`, `missing` and `seconds`, as in the `features` of a plan.
        causes: Why samples are stale, each under one cause: `feature`, `cause` and `samples`.
    """

    is_exact: bool
    rows: Annotated[pl.DataFrame, frame_of(FEATURES, nullable={"seconds"})]
    causes: Annotated[pl.DataFrame, frame_of(CAUSES)]

    @classmethod
    def of(cls, target: Target, plan: Plan) -> "PlanAnswer":
        """Return the answer that a plan of a store is."""
        return cls(store=target.store.location, is_exact=plan.is_exact, rows=plan.features, causes=plan.causes)


class DeclaredFeature(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of a graph.

    Attributes:
        feature: Its key, such as `"video/faces"`.
        containers: The code version of each container.
        upstream: The features that it is made from.
    """

    feature: str
    containers: dict[str, int | str]
    upstream: list[str]

    @classmethod
    def of(cls, spec: FeatureSpec) -> "DeclaredFeature":
        """Return what a declaration says."""
        return cls(
            feature=str(spec.key),
            containers={str(container.key): container.code_version for container in spec.containers},
            upstream=[str(dep.key) for dep in spec.deps],
        )


class GraphAnswer(Answer, frozen=True, kw_only=True):
    """What `graph` answers.

    Attributes:
        store: The store that was asked.
        features: The features, upstream first.
        notes: What the graph lacks, where it was read from the store.
    """

    features: list[DeclaredFeature]
    notes: list[str]


class ExplainAnswer(Answer, frozen=True, kw_only=True):
    """What `explain` answers.

    Attributes:
        store: The store that was asked.
        status: `"up to date"`, `"waiting"`, `"stale"`, `"new"`, `"excluded"` or `"retired"`.
        reasons: Why the stored version of each container differs from the expected one, in words, or `"same"`.
        causes: The containers from which the difference comes, such as `"video/raw/audio"`.
        text: The tree of containers that it is made from, as `explain` prints it.
    """

    status: Status
    reasons: dict[str, str]
    causes: list[str]
    text: str

    @classmethod
    def of(cls, target: Target, explanation: Explanation) -> "ExplainAnswer":
        """Return the answer that an explanation of a store is."""
        return cls(
            store=target.store.location,
            status=explanation.status,
            reasons={str(name): node.reason for name, node in explanation.containers.items()},
            causes=list(map(str, explanation.causes)),
            text=explanation.to_text(),
        )


class TraceAnswer(Answer, frozen=True, kw_only=True):
    """What `trace` answers.

    Attributes:
        store: The store that was asked.
        rows: By feature, that of the samples first: the id columns, `store`, `data_version` (by container; null if the
            last row there retires the sample), `retired` and `snapshots` (those that hold a row of the sample).
        snapshots: The names of all snapshots that hold any of these rows.
    """

    rows: dict[str, Annotated[pl.DataFrame, _TRACED_ROWS]]
    snapshots: tuple[str, ...]

    @classmethod
    def of(cls, target: Target, trace: Trace) -> "TraceAnswer":
        """Return the answer that a trace in a store is."""
        return cls(store=target.store.location, rows=dict(trace.rows), snapshots=trace.snapshots)


class DiffAnswer(Answer, frozen=True, kw_only=True):
    """What `diff` answers.

    Attributes:
        store: The last store that was named.
        before: What was compared, in words.
        after: With what, in words.
        causes: How many samples differ, by what: `feature`, `change` (`"added"`, `"removed"` or `"changed"`), `cause`
            and `samples`.
    """

    before: str
    after: str
    causes: Annotated[pl.DataFrame, frame_of(COUNTED)]

    @classmethod
    def of(cls, target: Target, diff: Diff) -> "DiffAnswer":
        """Return the answer that a difference to a store is."""
        return cls(store=target.store.location, before=diff.before, after=diff.after, causes=diff.causes)
