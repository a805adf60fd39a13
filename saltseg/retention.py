"""Is an uncertainty worth anything? Leave out the images that it ranks highest, and see how the rest score.

The curve of a mean score against the share kept is the risk–coverage curve of selective prediction (Geifman & El-Yaniv,
*Selective Classification for Deep Neural Networks*, 2017, https://arxiv.org/abs/1705.08500). The trivial rankings to
beat are by the length of the predicted boundary and by how little salt is predicted; none beats the one by the score.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saltseg.statistics import Floats, Images, interval

#: The share of images that is kept where one number must do.
KEPT = 0.8
_DRAWS = 2_000


def kept_means(scores: Floats, ranking: Floats, shares: Sequence[float], weights: NDArray[np.int64]) -> Floats:
    """Mean scores of the images that are left when those ranked highest are dropped.

    Args:
        scores: N.
        ranking: N numbers, dropped from the highest on; of equal ones, all are dropped in part.
        shares: K, of images to keep, in (0, 1].
        weights: B×N, how often each image is there.

    Returns:
        B×K.
    """
    order = np.argsort(ranking, kind="stable")
    starts = np.flatnonzero(np.diff(ranking[order], prepend=np.nan) != 0)
    weight = np.add.reduceat(weights[:, order], starts, axis=1)
    score = np.add.reduceat((weights * scores)[:, order], starts, axis=1) / np.maximum(weight, 1)
    before, total = weight.cumsum(1) - weight, weight.sum(1, keepdims=True)
    means = [(np.clip(s * total - before, 0, weight) * score).sum(1) / (s * total[:, 0]) for s in shares]
    return np.stack(means, axis=1)


def subsets(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of ``predictions.csv`` by part and by images: ``all``, and those ``with salt`` where there are any."""
    found = {}
    for part, rows in table.groupby("split", sort=False):
        found[str(part), "all"] = rows
        if (rows["salt"] > 0).any():
            found[str(part), "with salt"] = rows[rows["salt"] > 0]
    return found


def rankings(rows: pd.DataFrame) -> dict[str, Floats]:
    """By what these images can be ranked, the one to be dropped first highest.

    ``disagreement`` is there for three or more networks only.
    """
    columns = {name: rows[name] for name in ("uncertainty", "disagreement", "boundary") if name in rows}
    columns |= {"least_salt": -rows["predicted"], "perfect": -rows["iou"]}
    return {name: column.to_numpy(float) for name, column in columns.items()}


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """``dropped`` shares from 0 to 0.8, and the mean IoU of the rest by each ranking."""
    dropped = np.arange(17) / 20
    iou, once = rows["iou"].to_numpy(float), np.ones((1, len(rows)), np.int64)
    kept = {name: kept_means(iou, by, (1 - dropped).tolist(), once)[0] for name, by in rankings(rows).items()}
    return pd.DataFrame({"dropped": dropped, **kept})


def retention(table: pd.DataFrame) -> pd.DataFrame:
    """The content of ``uncertainty.csv``, from ``predictions.csv``: what dropping a fifth of the images gains.

    A row per part, kind of ``images`` and ranking ``by``: their ``count``, mean ``iou``, ``iou_kept``, the ``gain``,
    and how far it is ``over_boundary``, what dropping the longest predicted boundaries gains; both with 95% intervals
    of a bootstrap over images or groups of them, which ranks them anew in each draw.
    """
    found = []
    for (part, kind), rows in subsets(table).items():
        iou = rows["iou"].to_numpy(float)
        pairs = zip(rows["group"], rows["id"], strict=True)
        names = [f"group {g}" if isinstance(g, str) and g else f"image {i}" for g, i in pairs]
        weights = np.concatenate([np.ones((1, len(rows)), np.int64), *Images(names, _DRAWS).weights()])
        whole = kept_means(iou, iou, [1.0], weights)
        kept = {name: kept_means(iou, by, [KEPT], weights) for name, by in rankings(rows).items()}
        for name, means in kept.items():
            gain = _estimate(means - whole)
            over = _estimate(means - kept["boundary"])
            found.append((part, kind, len(rows), name, whole[0, 0], means[0, 0], *gain, *over))
    columns = ["split", "images", "count", "by", "iou", "iou_kept", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(found, columns=[*columns, "over_boundary", "over_boundary_low", "over_boundary_high"])


def flat(table: pd.DataFrame) -> dict[str, float]:
    """Of ``uncertainty.csv`` for ``metrics.json``: ``test/iou_kept80``, ``test/iou_salt_kept80_boundary`` and so on."""
    scores = {"all": "iou", "with salt": "iou_salt"}
    suffixes = {"uncertainty": "", "boundary": "_boundary"}
    return {
        f"{row['split']}/{scores[row['images']]}_kept{100 * KEPT:.0f}{suffixes[row['by']]}": row["iou_kept"]
        for row in table[table["by"].isin(suffixes)].to_dict("records")
    }


def _estimate(draws: Floats) -> tuple[float, float, float]:
    """The value, which stands first, and its interval."""
    (found,) = interval(draws[:1], draws[1:])
    return found.value, found.low, found.high
