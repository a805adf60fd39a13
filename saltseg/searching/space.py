"""A space: keys of ``train``, and the values that each may have."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from saltseg.errors import SaltsegError, near_miss


def domain(key: str, given: Any) -> BaseDistribution:
    """The values that ``key`` may have: a list of choices, or bounds ``{low, high, log, step}``.

    Raises:
        SaltsegError: if it is neither.
    """
    where = f"space: {key}"
    try:
        if isinstance(given, list):
            if any(isinstance(choice, list | Mapping) for choice in given):
                raise SaltsegError(f"{where}: a choice is a name or a number; write a YAML for {given} and name that.")
            return CategoricalDistribution(given)
        if not isinstance(given, Mapping):
            raise SaltsegError(f"{where}: expected a list of choices, or {{low: …, high: …}}; got {given}.")
        known = ("low", "high", "log", "step")
        for name in given:
            if name not in known:
                raise SaltsegError(f"{where}.{name}: there is no such key.{near_miss(str(name), known)}")
        missing = [name for name in ("low", "high") if given.get(name) is None]
        if missing:
            raise SaltsegError(f"{where}: {missing[0]} is missing; bounds are {{low: …, high: …}}.")
        low, high, log, step = given["low"], given["high"], bool(given.get("log", False)), given.get("step")
        if all(isinstance(number, int) for number in (low, high, step or 1)):
            return IntDistribution(low, high, log, step or 1)
        return FloatDistribution(float(low), float(high), log, step)
    except (TypeError, ValueError) as error:
        raise SaltsegError(f"{where}: {error}") from error


def examples(distribution: BaseDistribution) -> Sequence[Any]:
    """Every choice, or both bounds."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    """A value for ``key``."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
