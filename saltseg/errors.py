"""Errors that a person reads: what is wrong, what was expected, what to do."""

import difflib
from collections.abc import Iterable
from importlib import import_module
from typing import Any


class SaltsegError(Exception):
    """Something a user can mend. Commands print its message alone, without a traceback, and exit with status 1."""


def near_miss(word: str, known: Iterable[object]) -> str:
    """``" Did you mean 'resnet18'?"`` when ``word`` is close to something known, else what there is, shortened."""
    options = sorted({str(k) for k in known})
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" There is: {', '.join(options[:30])}{' …' if len(options) > 30 else ''}." if options else ""


def check_choice(key: str, value: object, known: Iterable[object]) -> None:
    """Refuse a ``value`` of the setting ``key`` that is none of the ``known`` ones.

    Raises:
        SaltsegError: naming the near miss.
    """
    known = list(known)
    if value not in known:
        raise SaltsegError(f"{key}={value}: there is no such choice.{near_miss(str(value), known)}")


def needed(package: str, what: str, extra: str | None = None) -> Any:
    """The package.

    Raises:
        SaltsegError: if it isn't installed, naming the ``extra`` that installs it (of the same name by default).
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise SaltsegError(f"{what} needs {package}: pip install 'saltseg[{extra or package}]'.") from error
