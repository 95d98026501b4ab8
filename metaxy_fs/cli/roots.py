"""How does a command read the root and the feature that it is given?"""

from argparse import ArgumentParser, ArgumentTypeError

from metaxy_fs.errors import MetaxyError, SpecError, StorageError
from metaxy_fs.metadata_store import FilesystemMetadataStore, open_store
from metaxy_fs.spec import FeatureKey

ROOT_HELP = (
    "a directory, or a URL such as s3://bucket/prefix or gs://bucket/prefix, with credentials from the environment "
    "(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, ...)"
)
FEATURE_HELP = "a feature, by the parts of its key with slashes or dots between, such as demo/files; default: all"


def feature_key(text: str) -> FeatureKey:
    """Return the key that an argument names."""
    try:
        return FeatureKey(text.replace("/", ".").split("."))
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
    """Return the store of a root as `open_root` does, and refuse one at which there is nothing: its name is wrong.

    Raises:
        StorageError: There is nothing.
    """
    store = open_root(root, parser, argument=argument)
    if not store.storage.list("", limit=1):
        raise StorageError(f"there is nothing at {store.location}: correct {argument}, or write to it first")
    return store
