"""Open the root and read the feature that a command is given."""

from argparse import ArgumentParser, ArgumentTypeError

from metaxy_fs.errors import MetaxyError, SpecError
from metaxy_fs.metadata_store import FilesystemMetadataStore, open_store
from metaxy_fs.metadata_store.maintenance import require_root
from metaxy_fs.spec import FeatureKey

ROOT_HELP = (
    "a directory, or a URL such as s3://bucket/prefix or gs://bucket/prefix, with credentials from the environment "
    "(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, ...)"
)
FEATURE_HELP = "a feature, by the parts of its key with slashes or dots between, such as demo/files; default: all"


def feature_key(text: str) -> FeatureKey:
    """Return the key that an argument names."""
    try:
        return FeatureKey.parse(text)
    except SpecError as error:
        raise ArgumentTypeError(str(error)) from error


def open_root(root: str, parser: ArgumentParser, *, argument: str) -> FilesystemMetadataStore:
    """Return the store of a root; if the text names none, end the process as for any argument without meaning."""
    try:
        return open_store(root)
    except MetaxyError:
        raise
    except ValueError as error:
        parser.error(f"argument {argument}: {error}")


def open_written_root(root: str, parser: ArgumentParser, *, argument: str) -> FilesystemMetadataStore:
    """Return the store of a root as `open_root` does, and refuse a place that is none: its name is wrong.

    Raises:
        StorageError: There is nothing, or something else.
    """
    store = open_root(root, parser, argument=argument)
    require_root(store)
    return store


def open_target(root: str, parser: ArgumentParser, *, argument: str) -> FilesystemMetadataStore:
    """Return the store of a root as `open_root` does, and refuse a place at which there is something else.

    Raises:
        StorageError: There is something else.
    """
    store = open_root(root, parser, argument=argument)
    require_root(store, may_be_new=True)
    return store
