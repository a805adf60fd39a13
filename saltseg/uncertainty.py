"""How sure is a prediction? Per pixel in bits, per image as the Dice that it expects to miss.

What is uncertain about a pixel is the entropy of its probability. What networks that were trained independently
disagree about is the mutual information between the prediction and the choice of the network: the entropy of their mean
less the mean of their entropies (Houlsby et al., *Bayesian Active Learning for Classification and Preference Learning*,
2011, https://arxiv.org/abs/1112.5745). Views of one network at test time are no networks.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from saltseg.calibration import temper

Floats = NDArray[np.floating]

#: From how many networks on their disagreement means something.
MEMBERS = 3


def entropy(probability: Floats, temperature: float = 1.0) -> NDArray[np.float32]:
    """Bits in [0, 1] of each probability in [0, 1]: 1 where it is a half, 0 where it is certain."""
    p = np.asarray(probability, np.float64) if temperature == 1 else temper(probability, temperature).astype(np.float64)
    return np.asarray((entr(p) + entr(1 - p)) / np.log(2), np.float32)


def mutual_information(members: Floats) -> NDArray[np.float32]:
    """What K networks disagree about, in bits in [0, 1].

    Args:
        members: K×H×W probabilities of independently trained networks, views of each averaged; untempered.

    Raises:
        ValueError: if there are fewer than three.
    """
    if len(members) < MEMBERS:
        raise ValueError(f"expected {MEMBERS} or more independently trained networks, there are {len(members)}")
    return disagreement(members.mean(0), entropy(members).mean(0))


def disagreement(mean: Floats, member_entropy: Floats) -> NDArray[np.float32]:
    """The same from H×W means over the networks: of their probabilities, and of their entropies in bits."""
    return np.asarray(np.maximum(entropy(mean) - member_entropy, 0), np.float32)


def uncertainty(probability: Floats, threshold: float, temperature: float = 1.0) -> float:
    """How much Dice an image expects to miss, in [0, 1].

    If the true salt is what lies above a level of the tempered probability, and the level is equally likely to be
    anywhere in (0, 1), this is 1 − the expected Dice of what lies above ``threshold``. It is exact, and one rule for
    all: for an empty prediction it is the highest probability. The Dice that probabilities themselves expect was made a
    measure of confidence by Borges et al., *Soft Dice Confidence*, 2024 (https://arxiv.org/abs/2402.10665); theirs says
    nothing about an empty prediction.

    Args:
        probability: H×W, untempered, or any array of the pixels that count.
        threshold: a pixel is salt above it, as in every score.
        temperature: see :func:`saltseg.calibration.fit_temperature`.
    """
    level = np.sort(temper(probability.ravel(), temperature).astype(np.float64))[::-1]
    predicted = int((probability > threshold).sum())
    true = np.arange(len(level) + 1)  # if so many pixels are salt, they are the likeliest ones
    both = predicted + true
    dice = np.where(both == 0, 1.0, 2 * np.minimum(predicted, true) / np.maximum(both, 1))
    chance = -np.diff(level, prepend=1.0, append=0.0)
    return float(np.clip(1 - chance @ dice, 0, 1))


def boundary_length(salt: NDArray[np.bool_]) -> int:
    """Edges between a pixel of H×W that is salt and a neighbour that is none: the trivial measure of difficulty."""
    return int(sum(np.diff(salt, axis=axis).sum() for axis in (0, 1)))
