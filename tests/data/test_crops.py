"""Random resized crops: torchvision's boxes, and pixels that are those of the box alone."""

import pytest
import torch
import torch.nn.functional as F
from conftest_data import pictures, write_parquet

from kd_research.data.augment import Augment, hash_bits, uniform
from kd_research.data.build import images
from kd_research.data.crops import NUM_DRAWS, centre, draw_boxes, resize_boxes
from kd_research.interfaces import Batch


def boxes(area, height, width, num=4096):
    draws = uniform(hash_bits(1, 2, torch.arange(num), NUM_DRAWS))
    return draw_boxes(draws, area, height, width)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_boxes_are_inside_and_have_the_stated_areas_and_ratios(height, width):
    top, left, box_height, box_width = boxes((0.08, 1.0), height, width).double().unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert (top + box_height).max() == height
    assert (left + box_width).max() <= width
    ratio, area = box_width / box_height, box_width * box_height / (height * width)
    assert 0.7 < ratio.min() < 0.78  # 3 / 4, but for the rounding to whole pixels
    assert 1.28 < ratio.max() < 1.42
    assert 0.07 < area.min() < 0.1
    assert area.max() > 0.88 if height == width else area.max() <= 2 / 3 + 1e-9
    if height == width:
        assert abs(ratio.log().mean()) < 0.02
        # too large ones are drawn again, so less than the 0.54 of uniform areas
        assert 0.45 < area.mean() < 0.54


def test_where_no_box_fits_it_is_the_largest_in_the_middle():
    whole = boxes((1.0, 1.0), 20, 100)
    assert whole.unique(dim=0).tolist() == [[0, 36, 20, 27]]  # 4:3 of the height


def test_a_box_is_resized_as_if_it_were_an_image():
    given = torch.randint(0, 256, (5, 3, 20, 24), dtype=torch.uint8)
    places = boxes((0.1, 1.0), 20, 24, num=5)
    resized = resize_boxes(given, places, (12, 16))
    assert resized.dtype == torch.uint8
    for image, (top, left, height, width), one in zip(given, places.tolist(), resized, strict=True):
        box = image[:, top : top + height, left : left + width].float().unsqueeze(0)
        expected = F.interpolate(box, (12, 16), mode="bilinear")[0]
        assert (one.float() - expected).abs().max() <= 0.51
    floats = resize_boxes(given.double() / 255, torch.tensor([[0, 0, 20, 24]] * 5), (20, 24))
    torch.testing.assert_close(floats, given.double() / 255, atol=1e-5, rtol=0)


def test_a_crop_is_a_function_of_seed_view_and_index():
    augment, index = Augment(seed=3, resized_crop=[0.2, 1.0], flip=True), torch.arange(6)
    given = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    together = augment.move(given, index, 5, (8, 8))
    assert together.shape == (6, 3, 8, 8)
    assert torch.equal(augment.move(given[4:5], index[4:5], 5, (8, 8)), together[4:5])
    assert not torch.equal(augment.move(given, index, 6, (8, 8)), together)
    assert augment.changes
    for wrong in ([0.5], [0.0, 1.0], [0.9, 0.5], [0.5, 2.0]):
        with pytest.raises(ValueError, match=r"two shares in \(0, 1\].*resized_crop=\[0.08,1\]"):
            Augment(resized_crop=wrong)


def test_evaluation_takes_the_centre_of_what_training_crops_from(tmp_path):
    write_parquet(tmp_path / "set", "train", pictures(30, size=(20, 16)), [0, 1, 2] * 10)
    write_parquet(tmp_path / "set", "test", pictures(9, size=(16, 12)), [0, 1, 2] * 3)
    settings = {"root": str(tmp_path / "set"), "path": None, "config_name": None, "splits": {}}
    settings |= {"input_column": None, "label_column": None, "resize": True, "num_classes": 3}
    settings |= {"input_shape": [3, 8, 8], "decode_size": 12, "store": str(tmp_path / "store")}
    settings |= {"name": "made", "batch_size": 7, "val_fraction": 0.2, "test_fraction": 0.2}
    settings |= {"split_seed": 0, "seed": 0, "mean": [0.0] * 3, "std": [1.0] * 3}
    settings["augment"] = lambda seed: Augment(seed=seed, resized_crop=[0.1, 1.0])
    data = images(**settings)
    index = torch.arange(7)
    taken = data.train.take(index)
    assert taken.inputs.shape == (7, 3, 12, 12)
    batch = Batch(taken.inputs, taken.labels, index)
    plain = data.prepare(batch).inputs
    torch.testing.assert_close(plain * 255, taken.inputs[:, :, 2:10, 2:10].float())
    assert torch.equal(centre(taken.inputs, (8, 8)), taken.inputs[:, :, 2:10, 2:10])
    assert data.prepare(batch, view=1).inputs.shape == plain.shape
    assert not torch.equal(data.prepare(batch, view=1).inputs, plain)
    assert data.fingerprint() != images(**settings | {"input_shape": [3, 6, 6]}).fingerprint()
    for wrong in ({"resize": False}, {"decode_size": 6}):
        with pytest.raises(ValueError, match="needs dataset.resize=true and no less than"):
            images(**settings | wrong)
