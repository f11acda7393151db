"""What conf/dataset/ gives is checked before a file is looked at."""

import pytest

from kd_research.data.build import images, text

PLACE = {"root": "/nowhere", "path": None, "config_name": None, "splits": {}, "num_classes": 3}
PLACE |= {"input_column": None, "label_column": None, "store": "/nowhere"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [28, 28]}, r"must be three whole numbers.*got \[28, 28\]; try dataset"),
        ({"input_shape": [3, 8, 8.5]}, "must be three whole numbers"),
        ({"input_shape": 28}, "must be three whole numbers.*got 28"),
        ({"input_shape": [2, 8, 8]}, r"has 2 channels, images have 1 \(grey\) or 3"),
        ({"input_shape": [8, 8, 3]}, "has 8 channels.*they come first"),
        ({"stream_workers": 1.5}, "stream_workers must be a whole number >= 0, got 1.5"),
        ({"stream_workers": -1}, "stream_workers must be a whole number >= 0, got -1"),
        ({"stream_workers": True}, "stream_workers must be a whole number >= 0, got True"),
        ({"decode_size": 10.5}, "decode_size must be a whole number >= 1, or null, got 10.5"),
    ],
)
def test_settings_of_images_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        images(**PLACE | {"resize": True, "input_shape": [3, 8, 8]} | changes)


def test_text_is_not_augmented():
    tokens = {"tokens": "word", "vocab_size": 10, "max_length": 9, "pretrained": None}
    with pytest.raises(ValueError, match="dataset.augment is for images, this data set is text"):
        text(**PLACE | tokens, augment={"crop": 2})
