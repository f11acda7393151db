"""Examples on which student and teacher disagree, as a person can look at them."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from kd_research.evaluation.disagreements import disagreements


class Inputs:
    def __init__(self, inputs):
        self.inputs = inputs

    def take(self, index):
        if isinstance(self.inputs, dict):
            return SimpleNamespace(inputs={k: v[index] for k, v in self.inputs.items()})
        return SimpleNamespace(inputs=self.inputs[index])


def data(inputs, shape=None, names=None, tokenizer=None):
    return SimpleNamespace(
        val=Inputs(inputs), input_shape=shape, class_names=names, tokenizer=tokenizer
    )


def predictions(labels, student, teacher=None):
    found = {"val_labels": np.array(labels), "val_student": np.array(student)}
    return found if teacher is None else {**found, "val_teacher": np.array(teacher)}


def opened(url):
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def test_images_that_they_take_for_different_classes():
    pixels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    given = predictions([0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0])
    found = disagreements(data(pixels, (1, 8, 8), ("cat", "dog")), given)
    assert [(e["label"], e["student"], e["teacher"]) for e in found] == [
        ("dog", "cat", "dog"),
        ("cat", "dog", "cat"),
    ]
    assert (np.asarray(opened(found[0]["image"])) == pixels[2, 0].numpy()).all()


def test_without_a_teacher_they_are_the_errors_and_large_images_get_small():
    pixels = torch.rand(3, 3, 128, 96)
    found = disagreements(data(pixels), predictions([0, 1, 2], [0, 1, 1]))
    assert [(e["label"], e["student"], e["teacher"]) for e in found] == [("2", "1", None)]
    assert opened(found[0]["image"]).size == (48, 64)


def test_texts_are_decoded_and_other_data_have_no_examples():
    tokenizer = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    given = predictions([0, 1], [0, 0], [0, 1])
    tokens = {"input_ids": torch.tensor([[1, 2], [3, 4]])}
    assert disagreements(data(tokens, tokenizer=tokenizer), given)[0]["text"] == "3 4"
    assert disagreements(data(tokens), given) == []
    assert disagreements(data(torch.rand(2, 4)), given) == []
    assert disagreements(data(torch.rand(2, 4)), predictions([[0]], [[0]])) == []
