"""Run the command line with `python -m metaxy_fs`, as `metaxy-fs` does."""

import sys

from metaxy_fs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
