"""``python -m saltseg.dataset``: get the data, verify it, show it."""

import os
import shutil
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table

from saltseg.command import app
from saltseg.components import instantiate
from saltseg.config import choices
from saltseg.data.datamodule import SaltDataModule
from saltseg.data.tgs import find_layout
from saltseg.data.verify import Report, verify
from saltseg.errors import SaltsegError, near_miss
from saltseg.report import console, draw_samples, draw_sheet

COMPETITION = "tgs-salt-identification-challenge"
PAGE = f"https://www.kaggle.com/competitions/{COMPETITION}"
TOKEN = (
    "Make a token on https://www.kaggle.com/settings (API), and put it into the environment variable KAGGLE_API_TOKEN "
    "or save the kaggle.json it gives as ~/.kaggle/kaggle.json."
)
ACTIONS = ("download", "verify", "show")


def dataset(config: DictConfig) -> None:
    """Do ``action``."""
    if config.action not in ACTIONS:
        raise SaltsegError(f"action={config.action}: there is no such action.{near_miss(config.action, ACTIONS)}")
    name, directory = choices()["data"], Path(HydraConfig.get().runtime.output_dir)
    if config.action == "download":
        if name not in ("tgs", "synthetic"):  # synthetic is what stands in as long as TGS isn't there
            raise SaltsegError(f"data={name}: only TGS can be downloaded, by action=download data=tgs.")
        download(Path(config.data.get("root") or os.environ.get("SALTSEG_TGS", "data/tgs")))
        return
    data: SaltDataModule = instantiate(config.data, config.trust)
    console.print(f"data: [bold]{name}[/bold]")
    if config.action == "show":
        for name, draw in (("samples", draw_samples), ("sheet", draw_sheet)):
            picture = directory / "figures" / f"{name}.png"
            draw(data, picture, config.seed)
            console.print(f"figure: {picture}")
    else:
        report_on(verify(data), directory)


def report_on(report: Report, directory: Path, shown: int = 20) -> None:
    """Print a report, and list problems and suspects in full in ``problems.txt`` and ``suspects.csv``.

    Raises:
        SaltsegError: if there are problems.
    """
    table = Table(show_header=False, box=None)
    for about, fact in report.facts.items():
        table.add_row(escape(about), escape(fact))
    for kind, ids in report.suspects.items():
        some = f": {', '.join(ids[:3])} …" if ids else ""
        table.add_row(f"suspect, {kind}", escape(f"{len(ids)}{some}"))
    console.print(table)
    if any(report.suspects.values()):
        report.table().to_csv(directory / "suspects.csv", index=False)
        console.print(f"suspects: {directory / 'suspects.csv'}")
    if not report.problems:
        console.print("Nothing is damaged or missing.")
        return
    listing = directory / "problems.txt"
    listing.write_text("\n".join(report.problems) + "\n", encoding="utf-8")
    first = "\n".join(f"  {problem}" for problem in report.problems[:shown])
    rest = f"\n  … and {len(report.problems) - shown} more" if len(report.problems) > shown else ""
    raise SaltsegError(f"{len(report.problems)} damaged or missing, also listed in {listing}:\n{first}{rest}")


def download(root: Path) -> None:
    """Get the competition's files from Kaggle into ``root``.

    Raises:
        SaltsegError: if kagglehub is not installed, there is no token, Kaggle can't be reached or refuses.
    """
    damaged = False
    try:
        if find_layout(root) is not None:
            console.print(f"TGS is already in {root}; verify it by `python -m saltseg.dataset action=verify data=tgs`.")
            return
    except SaltsegError as error:
        damaged = True
        console.print(escape(f"{error} It is downloaded again."))
    fetched = fetch(again=damaged)
    try:
        # kagglehub keeps its own copy, from which an interrupted download goes on; links cost no space.
        shutil.copytree(fetched, root, copy_function=_link, dirs_exist_ok=True)
    except OSError as error:
        raise SaltsegError(
            f"data.root: {root} can't be written ({error}). What Kaggle sent is in {fetched}."
        ) from error
    if find_layout(root) is None:
        raise SaltsegError(f"data.root: {root} holds what Kaggle sent, but no training images. See {PAGE}/data.")
    console.print(f"TGS is in {root}. Next: `python -m saltseg.dataset action=verify data=tgs data.root={root}`.")


def fetch(again: bool = False) -> Path:
    """Download by kagglehub, which never prompts; returns its folder. ``again``: also what it has already.

    Raises:
        SaltsegError: as :func:`download`.
    """
    try:
        import kagglehub
        import requests
        from kagglehub.config import get_kaggle_credentials
        from kagglehub.exceptions import BackendError, DataCorruptionError, UnauthenticatedError
    except ImportError as error:
        raise SaltsegError("action=download needs kagglehub: pip install kagglehub (the extra `kaggle`).") from error
    try:
        if get_kaggle_credentials() is not None:
            # kagglehub waits for minutes for a network that isn't there.
            requests.head("https://api.kaggle.com", timeout=5)
        return Path(kagglehub.competition_download(COMPETITION, force_download=again))
    except UnauthenticatedError as error:
        raise SaltsegError(f"action=download: there is no Kaggle token. {TOKEN}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise SaltsegError(
            "action=download: Kaggle can't be reached. Check the network (and HTTPS_PROXY), or download "
            f"{PAGE}/data elsewhere and name its folder by data.root=."
        ) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        what = {
            401: f"Kaggle does not accept the token. {TOKEN}",
            403: f"Kaggle refuses. Accept the competition's rules on {PAGE}/rules with the account of the token.",
            429: "Kaggle asks to slow down. Try again in some minutes.",
        }.get(status or 0, f"Kaggle answers {error}.")
        raise SaltsegError(f"action=download: {what}") from error
    except (OSError, ValueError, BackendError, DataCorruptionError) as error:  # a full disk, a broken kaggle.json …
        raise SaltsegError(f"action=download: {type(error).__name__}: {error}") from error


def _link(source: str, target: str) -> None:
    """A hard link where the file system can, else a copy; the target is never half a file."""
    unfinished = Path(f"{target}.part")
    unfinished.unlink(missing_ok=True)
    try:
        os.link(source, unfinished)
    except OSError:
        shutil.copy2(source, unfinished)
    unfinished.replace(target)


main = app("dataset")(dataset)

if __name__ == "__main__":
    main()
