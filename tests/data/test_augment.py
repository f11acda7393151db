"""Augmentation: pure, uniform, and what each part says it is."""

import pytest
import torch
import torch.nn.functional as F

from kd_research.data.augment import Augment, crop_flip, hash_bits, uniform

INDEX = torch.arange(4096)


def images(num=6, channels=3, height=8, width=10):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (num, channels, height, width), generator=generator).byte()


def test_draws_are_uniform_and_independent():
    draws = uniform(hash_bits(seed=3, view=5, index=INDEX, num_draws=4)).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        counts = torch.histc(column, bins=32, min=0, max=1)
        assert ((counts - 128) ** 2 / 128).sum() < 70  # chi square, 31 degrees: p about 1e-4
    others = [
        uniform(hash_bits(3, 6, INDEX, 4)),
        uniform(hash_bits(4, 5, INDEX, 4)),
        uniform(hash_bits(3, 5, INDEX + 1, 4)),
    ]
    columns = torch.cat([draws, *(other.double() for other in others)], dim=1)
    correlation = torch.corrcoef(columns.T) - torch.eye(16, dtype=torch.float64)
    assert correlation.abs().max() < 0.065  # 4 standard deviations of 1 / sqrt(4096)
    assert hash_bits(3, 5, INDEX, 4).unique().numel() == 4 * 4096


@pytest.mark.parametrize(
    "parts",
    [
        {"seed": 1, "crop": 2, "flip": True, "cutout": 3},
        {"seed": 1, "crop": 2, "flip": True, "mixup": 0.4, "cutmix": 1.0},
    ],
)
def test_an_example_looks_the_same_in_any_batch(parts):
    augment = Augment(**parts)
    pixels, labels = images(6), F.one_hot(torch.arange(6), 6).float()

    def look(index, view):
        torch.rand(3)  # moves the global state, which nothing here may read

        def one(at):
            return augment.erase(augment.move(pixels[at], at, view).float(), at, view)

        if not augment.mixes:
            return one(index), labels[index]
        other = augment.partners(index, view, 6)
        return augment.mix(one(index), labels[index], one(other), labels[other], index, view)

    together, together_labels = look(torch.tensor([4, 0, 2, 5]), view=7)
    alone, alone_labels = look(torch.tensor([2]), view=7)
    assert torch.equal(together[2:3], alone)
    assert torch.equal(together_labels[2:3], alone_labels)
    assert not torch.equal(look(torch.tensor([2]), view=8)[0], alone)


def test_global_random_state_is_left_alone():
    def noise(image):
        return image + torch.rand(())

    augment = Augment(seed=1, crop=2, flip=True, cutout=3, colour=noise)
    before = torch.get_rng_state()
    index = torch.arange(6)
    augment.erase(augment.move(images(), index, 0).float(), index, 0)
    first = augment.recolour(images().float(), index, 0)
    assert torch.equal(torch.get_rng_state(), before)
    second = augment.recolour(images()[2:4].float(), index[2:4], 0)
    assert torch.equal(first[2:4], second)
    assert not torch.equal(first[2] - images()[2], first[3] - images()[3])


def test_crop_and_flip_are_windows_of_the_padded_image():
    pixels, padding = images(), 2
    top, left = torch.tensor([0, 1, 2, 3, 4, 4]), torch.tensor([4, 0, 2, 1, 3, 0])
    flip = torch.tensor([False, True, False, True, False, True])
    given = crop_flip(pixels, top, left, flip, padding)
    padded = F.pad(pixels, (padding,) * 4)
    for i in range(6):
        window = padded[i, :, top[i] : top[i] + 8, left[i] : left[i] + 10]
        assert torch.equal(given[i], window.flip(-1) if flip[i] else window)
    assert given.dtype == torch.uint8


def test_every_offset_and_half_the_flips_occur():
    marked = torch.zeros(4096, 1, 5, 7, dtype=torch.uint8)
    marked[:, :, 2, 2] = 1  # left of the middle, so that a flip can be told from a crop
    found = Augment(seed=2, crop=1, flip=True).move(marked, INDEX, 0).nonzero()[:, 2:]
    _, counts = found.unique(dim=0, return_counts=True)
    assert found.shape[0] == 4096
    # 3 rows; columns 1..3 unflipped and 3..5 flipped: 15 places, those in column 3 twice as often
    assert counts.numel() == 15
    assert counts.min() > 170
    assert counts.max() < 540


def test_switching_one_part_on_moves_no_other():
    index = torch.arange(6)
    pixels = images(width=8)
    alone = Augment(seed=5, crop=2).move(pixels, index, 3)
    both = Augment(seed=5, crop=2, flip=True, cutout=4, mixup=0.2).move(pixels, index, 3)
    same = [
        torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(alone, both, strict=True)
    ]
    assert all(same)


def test_cutout_clears_a_square_that_may_leave_the_image():
    holes = Augment(seed=0, cutout=4).erase(torch.ones(4096, 2, 9, 9), INDEX, 1) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    area = holes[:, 0].flatten(1).sum(1)
    assert area.max() == 16
    assert 4 <= area.min() < 16
    covered = holes[:, 0].float().mean(0)
    assert covered.min() > 0.02  # the corners are reached too


def test_mixup_weighs_images_as_labels():
    augment = Augment(seed=0, mixup=0.4)
    ones, zeros = torch.ones(4096, 1, 2, 2), torch.zeros(4096, 1, 2, 2)
    first, second = torch.tensor([[1.0, 0.0]] * 4096), torch.tensor([[0.0, 1.0]] * 4096)
    mixed, labels = augment.mix(ones, first, zeros, second, INDEX, 0)
    torch.testing.assert_close(mixed[:, 0, 0, 0], labels[:, 0])
    torch.testing.assert_close(labels.sum(1), torch.ones(4096))
    weight = labels[:, 0]
    assert abs(weight.mean() - 0.5) < 0.03
    assert abs(weight.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01  # of Beta(a, a)


def test_cutmix_labels_are_the_shares_of_the_pixels():
    augment = Augment(seed=0, cutmix=1.0)
    ones, zeros = torch.ones(4096, 1, 8, 8), torch.zeros(4096, 1, 8, 8)
    first, second = torch.tensor([[1.0, 0.0]] * 4096), torch.tensor([[0.0, 1.0]] * 4096)
    mixed, labels = augment.mix(ones, first, zeros, second, INDEX, 0)
    torch.testing.assert_close(mixed.flatten(1).mean(1), labels[:, 0])
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    assert 0.4 < labels[:, 1].std() + labels[:, 1].mean() < 0.8


def test_with_both_each_example_takes_one():
    augment = Augment(seed=0, mixup=1.0, cutmix=1.0)
    ones, zeros = torch.ones(4096, 1, 8, 8), torch.zeros(4096, 1, 8, 8)
    first, second = torch.tensor([[1.0, 0.0]] * 4096), torch.tensor([[0.0, 1.0]] * 4096)
    mixed, labels = augment.mix(ones, first, zeros, second, INDEX, 0)
    torch.testing.assert_close(mixed.flatten(1).mean(1), labels[:, 0])
    is_cut = ((mixed == 0) | (mixed == 1)).flatten(1).all(1)
    assert 0.45 < is_cut.float().mean() < 0.55


def test_partners_are_spread_over_the_split_and_change_with_the_view():
    augment = Augment(seed=0, mixup=1.0)
    partners = augment.partners(INDEX, 0, 4096)
    assert 0 <= partners.min() <= partners.max() < 4096
    assert 2450 < partners.unique().numel() < 2730  # 4096 * (1 - 1/e) = 2589
    assert (partners == augment.partners(INDEX, 1, 4096)).sum() < 10


def test_nothing_is_nothing():
    pixels, index = images(), torch.arange(6)
    assert Augment().move(pixels, index, 0) is pixels
    assert Augment().erase(pixels, index, 0) is pixels
    assert Augment().recolour(pixels, index, 0) is pixels


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("crop", [-1, 2.5, "abc", True], "a whole number of pixels >= 0"),
        ("cutout", [-1, 2.5], "a whole number of pixels >= 0"),
        ("mixup", [-1, "abc", float("nan"), True], "a number >= 0"),
        ("cutmix", [-1, "abc"], "a number >= 0"),
        ("flip", ["abc", 0.5], "true or false"),
        ("colour", ["abc"], "something to call"),
        ("resized_crop", [0.5, "ab", [0.1, "b"]], r"two shares in \(0, 1\]"),
    ],
)
def test_values_of_another_kind_are_refused(name, values, message):
    for value in values:
        with pytest.raises(
            ValueError, match=f"augment.{name} must be {message}.*try .+dataset.augm"
        ):
            Augment(**{name: value})
