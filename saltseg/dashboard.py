"""``python -m saltseg.dashboard``: the W&B workspace in which the runs of a project are compared."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from saltseg.command import app
from saltseg.errors import SaltsegError, needed
from saltseg.report import console
from saltseg.run import Run
from saltseg.tracking import PICTURES, logged_in

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

#: Lightning's count of optimizer steps, which stands beside all that it logs.
STEP = "trainer/global_step"

#: What a run chooses, and what it comes to: the axes of the parallel coordinates and the columns of the table.
CHOICES = ("choices.model", "choices.loss", "choices.augmentation", "seed", "threshold")
RESULTS = ("images_per_second", "best/val/iou", "val/iou", "test/iou", "heldout/iou")


def dashboard(config: DictConfig) -> None:
    """Build the workspace, keep its definition as ``workspace.json``, and save it at W&B.

    Raises:
        SaltsegError: if there is no account, or its server refuses it or can't be reached.
    """
    needed("wandb_workspaces", "The dashboard", extra="wandb")
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    workspace = build(config.project, config.entity or "")
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    file = run.path / "workspace.json"
    run.write_json(file, workspace._spec)
    try:
        if not logged_in(verify=True):
            raise SaltsegError("no account is known here. Run `wandb login` or set WANDB_API_KEY, then try again.")
        workspace.entity = config.entity or wandb.Api().default_entity
        workspace.save()
    except (SaltsegError, wandb.Error, WandbApiFailedError) as error:
        raise SaltsegError(f"The workspace is defined ({file}) but not saved: {error}") from error
    console.print(f"workspace: {workspace.url}")


def build(project: str, entity: str) -> "Workspace":
    """The workspace; everything in it refers to what runs log by :mod:`saltseg.tracking`."""
    from wandb_workspaces.reports import v2 as wr
    from wandb_workspaces.workspaces import RunsetSettings, Section, SectionLayoutSettings, Workspace

    choices = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in CHOICES]
    results = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key)) for key in RESULTS]
    sections = {
        "Learning curves": [
            wr.LinePlot(title="Loss, by phase", x=STEP, metric_regex="^(train|val)/loss/"),
            wr.LinePlot(title="Validation IoU, by phase", x=STEP, metric_regex="^val/iou/"),
            wr.LinePlot(title="Validation IoU, best so far", x=STEP, y=["best/val/iou"]),
            wr.LinePlot(title="Learning rate", x=STEP, y=["lr"]),
            wr.LinePlot(title="Images per second", x=STEP, y=["images_per_second"]),
        ],
        "Threshold": [
            wr.LinePlot(
                title=f"Validation {score} against the threshold, by encoder",
                x="thresholds/threshold",
                y=[f"thresholds/{score}"],
                groupby=wr.Config("choices.model"),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
            )
            for score in ("iou", "map")
        ],
        "Which choice matters": [
            wr.ParallelCoordinatesPlot(title="From choices to IoU", columns=[*choices, *results]),
            wr.RunComparer(diff_only="split"),
        ],
        "The same validation images": [wr.MediaBrowser(media_keys=[PICTURES], num_columns=4)],
    }
    return Workspace(
        entity=entity,
        project=project,
        name="saltseg",
        sections=[
            Section(name=name, panels=panels, is_open=True, layout_settings=SectionLayoutSettings(columns=2, rows=3))
            for name, panels in sections.items()
        ],
        runset_settings=RunsetSettings(pinned_columns=[f"summary:{key}" for key in RESULTS]),
        auto_generate_panels=False,
    )


main = app("dashboard")(dashboard)

if __name__ == "__main__":
    main()
