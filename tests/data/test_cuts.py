"""The splits are those of scikit-learn, whose import a run does without."""

from __future__ import annotations

import math

import numpy as np
import torch

from kd_research.data.cuts import cut
from kd_research.data.sources import Split, digits


def test_a_cut_is_the_stratified_one_of_scikit_learn() -> None:
    from sklearn.model_selection import train_test_split

    random = np.random.RandomState(0)
    compared = 0
    while compared < 200:
        num_classes = random.randint(2, 12)
        more = random.choice(
            num_classes, size=random.randint(300), p=random.dirichlet(np.ones(num_classes))
        )
        labels = np.concatenate([np.arange(num_classes), np.arange(num_classes), more])
        random.shuffle(labels)
        fraction = random.choice([0.1, 0.2, 0.25, 0.5, random.rand() * 0.8 + 0.1])
        num = math.ceil(fraction * len(labels))
        if min(num, len(labels) - num) < num_classes:
            continue
        seed = int(random.randint(1 << 31))
        places = np.arange(len(labels))
        wanted = train_test_split(places, test_size=fraction, random_state=seed, stratify=labels)
        whole = Split(torch.from_numpy(places), torch.from_numpy(labels))
        for part, ours in zip(wanted, cut(whole, fraction, seed), strict=True):
            assert ours.take(torch.arange(len(ours))).inputs.tolist() == sorted(part)
        compared += 1


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), digits().train
    images = torch.from_numpy(theirs.images).float().div(16).unsqueeze(1)
    assert torch.equal(ours.take(torch.arange(1797)).inputs, images)
    assert torch.equal(ours.labels, torch.from_numpy(theirs.target).long())
