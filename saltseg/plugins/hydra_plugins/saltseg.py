"""The sweeper, where Hydra looks for one: it takes plugins from the namespace ``hydra_plugins`` alone."""

import os
from itertools import chain
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf


class TwoWaves(BasicSweeper):  # type: ignore[misc]
    """Every combination of the swept values; jobs with one training are launched in two waves, see `saltseg.sweep`.

    ```yaml
    hydra:
      sweeper:
        max_batch_size: 4                          # how many jobs a launcher gets at once; null: all of a wave
        params: {model: "resnet18,resnet34"}       # swept when the command line doesn't say otherwise
    ```
    """

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs.

        Raises:
            SaltsegError: if one of them did not finish.
        """
        from saltseg.hardware import detect  # not before they are needed: every command looks for plugins
        from saltseg.sweep import Sweep
        from saltseg.train import check_values
        from saltseg.waves import carry_out

        assert self.config is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        jobs = list(chain.from_iterable(self.split_arguments(overrides, None)))
        directory = Path(self.config.hydra.sweep.dir)
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        sweep = Sweep.plan(directory, jobs, self.compose, check_values)
        at_once = self.max_batch_size
        if self.config.hydra.runtime.choices["hydra/launcher"] == "submitit_local":
            # It starts all that it is given, on this one machine, and each takes all cores.
            at_once = at_once or detect().jobs
            os.environ["OMP_NUM_THREADS"] = str(detect().cores_per_job)
        carry_out(sweep, self.launch, at_once)

    def compose(self, overrides: list[str]) -> DictConfig:
        """The configuration that a job will have."""
        assert self.hydra_context is not None
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        return config

    def launch(self, jobs: list[list[str]]) -> list[JobReturn]:
        """Run some jobs and wait for them."""
        assert self.launcher is not None
        return list(self.launcher.launch(jobs, initial_job_idx=0))
