"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saltseg.errors import SaltsegError


def write_whole(file: Path, content: str | bytes) -> None:
    """Write so that a reader finds the old content or the new one, never half of it.

    Raises:
        SaltsegError: if the disk is full or the place can't be written to; nothing is left of the attempt.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with writing(file):
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            partial.replace(file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Say in words that a file can't be written.

    Raises:
        SaltsegError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise SaltsegError(f"{file} can't be written: {error.strerror or error}.") from error
