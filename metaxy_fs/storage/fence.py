"""Does what lies below a local root stay there, and is it a plain file?

A root is shared, so somebody may put a link into it that leads to the files of whoever reads it, a loop of links in
which a listing never ends, or a pipe at which a reader waits for ever.
"""

import os
import stat

from metaxy_fs.errors import CorruptObjectError

REMEMBERED = 2**14
"""How many directories are remembered: a process that reads for months would else remember all that there ever were."""


class Fence:
    """Refuses what leads out of a root. Safe to share between threads.

    The root itself may be a link, or lie below one. A directory is looked at when it is first seen.

    Args:
        root: An absolute path.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._inside: set[str] = set()

    def check_directory(self, directory: str) -> None:
        """Refuse a directory of the root that is a link, or lies below one.

        Raises:
            CorruptObjectError: It is.
        """
        if directory in self._inside:
            return
        expected = os.path.join(os.path.realpath(self._root), os.path.relpath(directory, self._root))
        real = os.path.realpath(directory)
        if os.path.normcase(real) != os.path.normcase(os.path.normpath(expected)):
            raise CorruptObjectError(
                f"{directory} is a link, or lies below one: it is {real}. Links to directories are not followed below "
                f"the root {self._root}; move the directory here, or open the place that it leads to as a root."
            )
        if os.path.isdir(real):
            if len(self._inside) >= REMEMBERED:
                self._inside.clear()
            self._inside.add(directory)

    def check_file(self, path: str) -> None:
        """Refuse a file that is a link out of the root, or no file but something else that can be opened.

        Raises:
            CorruptObjectError: It is.
            FileNotFoundError: There is none.
            IsADirectoryError: It is a directory.
        """
        self.check_directory(os.path.dirname(path))
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            self._check_link(path)
            found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptObjectError(f"{path} is a pipe, a socket or a device, and is not opened. Remove it.")

    def _check_link(self, path: str) -> None:
        real = os.path.normcase(os.path.realpath(path))
        root = os.path.normcase(os.path.realpath(self._root))
        if not real.startswith(os.path.join(root, "")):
            raise CorruptObjectError(
                f"{path} is a link that leads out of the root {self._root}, to {real}. It is not followed; put the "
                "file itself there, or remove the link."
            )
