"""How does a command open the root that it is given?"""

from argparse import ArgumentParser

from metaxy_fs.errors import MetaxyError
from metaxy_fs.metadata_store import FilesystemMetadataStore, open_store

ROOT_HELP = (
    "a directory, or a URL such as s3://bucket/prefix or gs://bucket/prefix, with credentials from the environment "
    "(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, ...)"
)


def open_root(root: str, parser: ArgumentParser, *, argument: str) -> FilesystemMetadataStore:
    """Return the store of a root; if the text names none, end the process as for any argument without meaning."""
    try:
        return open_store(root)
    except MetaxyError:
        raise
    except ValueError as error:
        parser.error(f"argument {argument}: {error}")
