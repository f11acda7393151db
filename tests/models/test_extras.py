"""Other people's models by `_target_` alone; each is skipped where its extra is not installed."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_research.models.capture import Capture

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
DATASET = {"num_classes": 3, "vocab_size": 50, "input_shape": [3, 32, 32]}
TEXT = {
    "input_ids": torch.tensor([[4, 5, 6], [7, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
}


def load(name: str, **changes):
    config = OmegaConf.create({"dataset": DATASET, "model": OmegaConf.load(CONF / f"{name}.yaml")})
    config.model.update(changes)
    return instantiate(config.model)


# transformers' own notes at import and at loading are none of ours
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hugging_face_classifier_from_its_configuration_and_from_a_folder(tmp_path):
    pytest.importorskip("transformers", reason="the extra transformers is not installed")
    torch.manual_seed(0)
    model = load("bert").eval()
    output = Capture(model, ["bert.encoder.layer.0"])(TEXT)
    assert output.logits.shape == (2, 3)
    assert output.features["bert.encoder.layer.0"].shape == (2, 3, 128)
    longer = {name: torch.nn.functional.pad(value, (0, 2)) for name, value in TEXT.items()}
    torch.testing.assert_close(Capture(model)(longer).logits, output.logits, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = load("huggingface", pretrained_model_name_or_path=str(tmp_path)).eval()
    assert torch.equal(Capture(again)(TEXT).logits, output.logits)


def test_a_timm_model():
    pytest.importorskip("timm", reason="the extra timm is not installed")
    model = load("timm", model_name="resnet18").eval()
    output = Capture(model, ["layer1"])(torch.zeros(2, 3, 32, 32))
    assert output.logits.shape == (2, 3)
    assert output.features["layer1"].ndim == 4


def test_a_kornia_transform_is_a_function_of_seed_view_and_index():
    kornia = pytest.importorskip("kornia", reason="the extra augment is not installed")
    from kd_research.data.augment import Augment

    augment = Augment(seed=0, colour=kornia.augmentation.auto.RandAugment(2, 10))
    images, index = torch.rand(4, 3, 16, 16), torch.arange(4)
    together = augment.recolour(images, index, 1)
    assert torch.equal(augment.recolour(images[2:3], index[2:3], 1), together[2:3])
    assert not torch.equal(augment.recolour(images, index, 2), together)
