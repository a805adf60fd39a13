"""How a job becomes a command: composed by Hydra, its errors in words."""

import gc
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from saltseg.config import CONF, TrainConfig
from saltseg.errors import SaltsegError, near_miss

#: What a person can mend; everything else is a bug of ours.
MENDABLE = (SaltsegError, HydraException, OmegaConfBaseException, YAMLError)


def app(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Make a job a command: ``conf/<name>.yaml`` composed with the command line's overrides.

    What a user can mend is printed as one message, with status 1; Ctrl-C gives 130; anything else is a bug of ours
    and keeps its traceback.
    """

    def decorate(job: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @wraps(job)
        def command() -> Any:
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            gc.freeze()  # What is imported by now stays: a second less to look for garbage when the process ends.
            errors: list[Exception] = []

            @wraps(job)
            def attempt(config: DictConfig) -> Any:
                try:
                    refuse_strays(config, name)
                    return job(config)
                except MENDABLE as error:
                    if HydraConfig.get().mode is RunMode.MULTIRUN:
                        # Hydra goes on with the next job. Not every error travels from a worker process to here.
                        raise SaltsegError(explain(error)) from None
                    errors.append(error)  # Hydra would announce it by a line that says nothing.

            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(attempt)()
                if errors:
                    raise errors[0]
            except KeyboardInterrupt as stop:
                print(f"\n{str(stop) or 'Stopped.'}", file=sys.stderr)
                sys.exit(130)
            except MENDABLE as error:
                if os.environ.get("SALTSEG_TRACEBACK"):
                    traceback.print_exc()
                print(f"\nsaltseg: {explain(error)}", file=sys.stderr)
                sys.exit(1)

        return command

    return decorate


def refuse_strays(config: DictConfig, name: str) -> None:
    """``+key=value`` gets past the schema of the root.

    Raises:
        SaltsegError: if there is a key that the command doesn't have.
    """
    known = list(ConfigStore.instance().load(f"{name}_schema.yaml").node)  # the node itself hides what is missing yet
    for key in config:
        if key not in known:
            raise SaltsegError(f"{key!s}: there is no such key.{near_miss(str(key), known)}")


def explain(error: BaseException) -> str:
    """An error of composing, in words for a person, with the near miss."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SaltsegError):  # raised by a resolver
            return str(cause)
        if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.key is not None:
            parent = cause.parent_node
            known = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
            where = cause.full_key or cause.key
            return f"{where}: there is no such key.{near_miss(str(cause.key), known)}"
        if isinstance(cause, MissingMandatoryValue):
            return f"{cause.full_key} must be given: add {cause.full_key}=… to the command."
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return f"{cause.full_key}: {str(cause).splitlines()[0]}"
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    option = re.search(r"Could not find '([^'/]+)/([^']+)'", text)
    if option:
        group, choice = option.groups()
        known = [p.stem for p in (CONF / group).glob("*.yaml")]
        return f"{group}={choice}: there is no such {group}.{near_miss(choice, known)}"
    unmatched = re.search(r"Could not override '([^']+)'\.?\s*No match in the defaults list", text)
    if unmatched:
        known = [p.name for p in CONF.iterdir() if p.is_dir()] + list(TrainConfig.__dataclass_fields__)
        return f"{unmatched.group(1)}: there is no such key or group.{near_miss(unmatched.group(1), known)}"
    return text


def command_line() -> str:
    """What to type to run this job again: the overrides that concern the experiment, not where it is written."""
    hydra_config = HydraConfig.get()
    return shlex.join(["python", "-m", f"saltseg.{hydra_config.job.name}", *hydra_config.overrides.task])
