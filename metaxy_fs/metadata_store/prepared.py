"""Prepare writes in workers, and commit them together in a driver."""

from collections.abc import Iterable

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import Receipt, check_tags
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.frames import FrameLike, check_write_id
from metaxy_fs.metadata_store.operations import Append, PreparedWrites
from metaxy_fs.metadata_store.write import GivenTags, checked_rows


@about_feature
def prepare_write(store: Backend, feature: Declared, df: FrameLike, *, task_id: str | None) -> Receipt:
    """Store the rows of a frame, which nobody sees before they are committed, or say why they do not fit."""
    if task_id is not None and not isinstance(task_id, str):
        raise TypeError(f"task_id is a string that names the task within its job, got {task_id!r}.")
    rows = checked_rows(feature, df)
    return store.prepare_rows(Append(spec=feature.spec, definition=feature.definition, chunks=rows), task_id=task_id)


@about_feature
def commit_prepared(
    store: Backend, feature: Declared, receipts: Iterable[Receipt], *, write_id: str | None, tags: GivenTags
) -> None:
    """Commit prepared writes together; none at all are no commit."""
    if write_id is not None:
        check_write_id(write_id)
    together = check_tags(store.tags, tags)
    several = tuple(receipts)
    for receipt in several:
        _refuse_other_feature(feature, receipt)
    if several:
        store.commit_prepared_rows(
            PreparedWrites(
                spec=feature.spec, definition=feature.definition, receipts=several, write_id=write_id, tags=together
            )
        )


def _refuse_other_feature(feature: Declared, receipt: Receipt) -> None:
    if not isinstance(receipt, Receipt):
        raise TypeError(f"receipts are what prepare_write returns, got {receipt!r}.")
    if (receipt.feature, receipt.version) != (str(feature.key), feature.definition.partition):
        raise MetadataSchemaError(
            f"{receipt!r} was prepared for feature '{receipt.feature}' under data version {receipt.version}, and "
            f"is to be committed for '{feature.key}' under {feature.definition.partition}. Nothing was committed: "
            "prepare the rows again with the declaration and code_versions that the driver has."
        )
