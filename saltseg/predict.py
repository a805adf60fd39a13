"""``python -m saltseg.predict``: a run is used on images, on Kaggle's test set, on a survey."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from hydra.core.config_store import ConfigStore
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from saltseg.calibration import NO_TRANSFER, temper
from saltseg.command import app
from saltseg.config import resolved
from saltseg.data.images import Array8
from saltseg.data.sampling import Grain
from saltseg.errors import SaltsegError, check_choice
from saltseg.files import write_whole
from saltseg.inference import Mean, Prediction, Predictor, assemble
from saltseg.metrics import to_threshold
from saltseg.prediction.products import KINDS, Products
from saltseg.prediction.sections import SurveyOptions
from saltseg.prediction.sources import ARRAY_SUFFIXES, SEGY_SUFFIXES, Source, sources
from saltseg.prediction.survey import predict_survey
from saltseg.report import console
from saltseg.run import Run
from saltseg.sweep import digest, named_runs
from saltseg.uncertainty import MEMBERS, disagreement, entropy, uncertainty

ConfigStore.instance().store(name="survey_schema", node=SurveyOptions)

#: Images that are read, predicted and written at a time, in batches.
BATCHES = 4


def predict(config: DictConfig) -> None:
    """Find the networks and the input, and write what is asked for."""
    path = Path(config.input)
    kinds = find_kinds(config.format, path)
    runs = named_runs(config.run)
    if "disagreement" in kinds and len(runs) < MEMBERS:
        raise SaltsegError(f"format=disagreement: {len(runs)} networks, expected {MEMBERS} that were trained apart.")
    settle(config, runs)
    predictor = make_predictor(config, runs)
    if kinds == ["segy"]:
        predict_segy(config, path, predictor, runs)
    else:
        predict_images(config, path, kinds, predictor, runs)


def find_kinds(asked: Any, path: Path) -> list[str]:
    """What is to be written.

    Raises:
        SaltsegError: if a kind is unknown or doesn't suit the input.
    """
    if path.suffix.lower() in SEGY_SUFFIXES:
        if asked not in (None, "segy"):
            raise SaltsegError(f"format={asked}: of a SEG-Y file a SEG-Y file is made, format=segy.")
        return ["segy"]
    if asked is None:
        return ["npy", "mask", "overlay"] if path.suffix.lower() in ARRAY_SUFFIXES else ["mask", "overlay"]
    kinds = list(asked) if isinstance(asked, ListConfig) else [asked]
    for kind in kinds:
        check_choice("format", kind, KINDS)
    return kinds


def settle(config: DictConfig, runs: Sequence[Run]) -> None:
    """Fill in from the first run what isn't asked for.

    Raises:
        SaltsegError: if something asked for can't be.
    """
    check_choice("mean", config.mean, get_args(Mean))
    if not 0 <= config.overlap < 1:
        raise SaltsegError(f"overlap={config.overlap}: expected a share of a tile, at least 0 and below 1.")
    first = runs[0].config()
    if config.weights is None:
        config.weights = first.weights
    if config.tta is None:
        config.tta = first.tta
    if config.batch_size is None:
        config.batch_size = first.data.batch_size
    config.threshold = choose_threshold(config.threshold, runs)
    if config.temperature is None:
        config.temperature = runs[0].metrics().get("temperature", 1.0) if len(runs) == 1 else 1.0


def make_predictor(config: DictConfig, runs: Sequence[Run]) -> Predictor:
    """The networks of the runs, as they are asked for."""
    return assemble(
        runs,
        weights=config.weights.value,
        tta=config.tta.value,
        image_size=image_size(runs),
        batch_size=config.batch_size,
        trust=config.trust,
        backend=config.backend,
        mean=config.mean,
        overlap=config.overlap,
    )


def image_size(runs: Sequence[Run]) -> tuple[int, int]:
    """What the networks were trained on.

    Raises:
        SaltsegError: if they differ, or it isn't known.
    """
    sizes = {}
    for run in runs:
        metrics = run.metrics()
        if "image_height" not in metrics:
            raise SaltsegError(
                f"run: {run.path} was scored before runs kept the size of their images. Score it again: "
                f"`python -m saltseg.train … ckpt_path={run.last_checkpoint}` trains no further."
            )
        sizes[int(metrics["image_height"]), int(metrics["image_width"])] = run.path
    if len(sizes) > 1:
        listed = ", ".join(f"{height}×{width} in {path}" for (height, width), path in sizes.items())
        raise SaltsegError(f"run: these can't be averaged, for their training images differ in size: {listed}.")
    return next(iter(sizes))


def choose_threshold(asked: Any, runs: Sequence[Run]) -> float:
    """Above which probability a pixel is salt.

    Raises:
        SaltsegError: if it is neither a number in (0, 1) nor ``best`` of a single run.
    """
    if asked is None:
        return float(runs[0].config().threshold)
    if asked == "best":
        if len(runs) > 1:
            raise SaltsegError("threshold=best of an ensemble: let evaluate run=[…] split=val find it, and name it.")
        return float(runs[0].metrics()["threshold_best"])
    return to_threshold(asked)


def about(config: DictConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """All that a prediction depends on; what was begun with other settings is not gone on with."""
    settings = {k: v for k, v in resolved(config).items() if k not in ("output", "overwrite")}
    return {**settings, "networks": [digest(run.checkpoint(config.weights.value)) for run in runs]}


def predict_segy(config: DictConfig, path: Path, predictor: Predictor, runs: Sequence[Run]) -> None:
    """Write the probability of a survey as SEG-Y, and what else ``segy.`` asks for.

    Raises:
        SaltsegError: if the survey can't be read, or the result is there already.
    """
    assert predictor.image_size is not None
    output = Path(config.output)
    file = output if output.suffix.lower() in SEGY_SUFFIXES else output / f"{path.stem}_salt{path.suffix}"
    if file.exists() and not config.overwrite:
        raise SaltsegError(f"output: {file} is there already, and it is kept. Name another, or overwrite=true.")
    if file.exists() and file.samefile(path):
        raise SaltsegError(f"output: {file} is the input itself; name another file.")
    options = SurveyOptions(**config.segy)
    threshold: float = config.threshold

    def tempered(images: Sequence[Array8]) -> list[NDArray[np.float32]]:
        return [temper(probability, config.temperature) for probability in predictor(images)]

    if config.calibrate:  # the same samples are salt: what is above the threshold is above the tempered one
        threshold = float(temper(np.array([threshold]), config.temperature)[0])
    row = predict_survey(
        path,
        file,
        tempered if config.calibrate else predictor,
        threshold,
        predictor.image_size,
        Grain.of(runs[0].metrics()),
        options,
        about(config, runs),
    )
    table = pd.DataFrame([{"id": path.stem, **row}])
    write_whole(file.with_name(f"{file.stem}.csv"), table.to_csv(index=False))
    console.print(
        f"{row['salt']:.1%} of what was measured is salt, in {row['bodies']} bodies; mean probability "
        f"{row['probability']:.3f}\n{NO_TRANSFER}\n{file}"
    )


def predict_images(
    config: DictConfig, path: Path, kinds: Sequence[str], predictor: Predictor, runs: Sequence[Run]
) -> None:
    """Write the products of each image; what can't be read is left out, and named in the end.

    Raises:
        SaltsegError: if an image couldn't be read; the others are done.
    """
    assert predictor.image_size is not None
    found = sources(path, predictor.image_size)
    sample = find_sample(path) if "kaggle" in kinds else None
    products = Products(Path(config.output), kinds, about(config, runs), config.overwrite)

    due = [source for source in found if source.name not in products.rows]
    broken: dict[str, str] = {}
    start, size = time.perf_counter(), BATCHES * config.batch_size
    with tqdm(total=len(found), initial=len(found) - len(due), unit=" images", dynamic_ncols=True) as bar:
        for k in range(0, len(due), size):
            images = dict(read(due[k : k + size], broken))
            predictions = predictor.predict(list(images.values()))
            for (name, image), prediction in zip(images.items(), predictions, strict=True):
                maps = maps_of(prediction, config)
                salt = prediction.probability > config.threshold
                products.keep(row(name, prediction, maps, config), image, maps, salt)
            products.note()
            bar.update(len(due[k : k + size]))
    done, seconds = len(due) - len(broken), time.perf_counter() - start
    console.print(f"{done} images in {seconds:.1f} s, {done / seconds:.0f} a second")
    if broken:
        reasons = "\n".join(f"  {reason}" for reason in list(broken.values())[:20])
        raise SaltsegError(
            f"{len(broken)} of {len(found)} images can't be read, the others are in {products.folder}:\n{reasons}\n"
            "Mend them, and the same command adds them; or take them out of the input."
        )
    products.finish([source.name for source in found], sample)
    console.print(NO_TRANSFER)
    for file in (products.table, products.submission):
        if file.exists():
            console.print(f"{file}")


def read(due: Sequence[Source], broken: dict[str, str]) -> Iterator[tuple[str, Array8]]:
    """The names and images; of those that are damaged the reason goes to ``broken``."""
    for source in due:
        try:
            yield source.name, source.read()
        except SaltsegError as error:
            broken[source.name] = str(error)


def maps_of(prediction: Prediction, config: DictConfig) -> dict[str, NDArray[np.float32]]:
    """What can be written of each pixel: ``probability``, ``entropy``, and of several networks ``disagreement``."""
    probability = prediction.probability
    maps = {
        "probability": temper(probability, config.temperature) if config.calibrate else probability,
        "entropy": entropy(probability, config.temperature),
    }
    if prediction.member_entropy is not None:
        maps["disagreement"] = disagreement(probability, prediction.member_entropy)
    return maps


def row(
    name: str, prediction: Prediction, maps: Mapping[str, NDArray[np.float32]], config: DictConfig
) -> dict[str, Any]:
    """The row of ``predictions.csv``: the share of salt, the mean probability, and how uncertain both are."""
    probability = prediction.probability
    known = {
        "id": name,
        "height": probability.shape[0],
        "width": probability.shape[1],
        "salt": float((probability > config.threshold).mean()),
        "probability": float(maps["probability"].mean()),
        "uncertainty": uncertainty(probability, config.threshold, config.temperature),
    }
    if "disagreement" in maps:
        known["disagreement"] = float(maps["disagreement"].mean())
    return known


def find_sample(path: Path) -> Path:
    """Kaggle's ``sample_submission.csv``, which says which ids are wanted in which order.

    Raises:
        SaltsegError: if it isn't there.
    """
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "sample_submission.csv").is_file():
            return folder / "sample_submission.csv"
    raise SaltsegError(f"format=kaggle: expected sample_submission.csv of the competition's data beside {path}.")


main = app("predict")(predict)

if __name__ == "__main__":
    main()
