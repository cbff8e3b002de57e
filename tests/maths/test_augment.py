"""Crop and flip: the batched way against the slow and obvious one, and every crop as often as any other."""

import numpy as np
import pytest
import torch
from scipy import stats

from secateur.maths.augment import crop_flip
from secateur.split import Split


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def obvious(image, pad, down, right, mirrored):
    """One image [c, h, w]: pad with zeros, cut, mirror."""
    _, h, w = image.shape
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    cut = padded[:, down : down + h, right : right + w]
    return cut[:, :, ::-1] if mirrored else cut


def drawn(pad, b, seed):
    """The offsets and coins of a batch, drawn as the implementation says that it draws them."""
    rng = generator(seed)
    down, right = torch.randint(0, 2 * pad + 1, (2, b, 1), generator=rng).squeeze(2).tolist()
    return zip(down, right, torch.randint(0, 2, (b, 1), generator=rng).flatten().tolist(), strict=True)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 5, 9), (2, 9, 4), (1, 1, 1)])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_it_is_what_the_slow_way_gives(pad, shape, flip):
    x = torch.rand(16, *shape, generator=generator(1))
    got = crop_flip(pad, flip=flip)(x, generator(3))
    want = [
        obvious(image, pad, down, right, coin and flip)
        for image, (down, right, coin) in zip(x.numpy(), drawn(pad, 16, 3), strict=True)
    ]
    np.testing.assert_array_equal(got.numpy(), np.stack(want))


@pytest.mark.parametrize("flip", [True, False])
def test_every_crop_and_side_is_as_likely(flip):
    pad, n = 2, 9000
    image = np.arange(1, 26, dtype=np.float32).reshape(1, 5, 5)
    sides = (0, 1) if flip else (0,)
    possible = {
        obvious(image, pad, down, right, side).tobytes(): 0
        for down in range(2 * pad + 1)
        for right in range(2 * pad + 1)
        for side in sides
    }
    assert len(possible) == 25 * len(sides)
    got = crop_flip(pad, flip=flip)(torch.from_numpy(image).expand(n, 1, 5, 5), generator(5))
    for one in got.numpy():
        possible[np.ascontiguousarray(one).tobytes()] += 1  # a KeyError is a crop that there is not
    found, _ = stats.chisquare(list(possible.values()))
    assert found < stats.chi2.ppf(0.999, len(possible) - 1)


def test_the_images_of_a_batch_are_cropped_each_by_itself():
    x = torch.arange(1.0, 65).view(1, 1, 8, 8).expand(200, 1, 8, 8)
    got = crop_flip(4)(x, generator())
    assert len({one.numpy().tobytes() for one in got}) > 100


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_type_and_contents_do_not_depend_on_the_layout(layout, dtype):
    x = torch.rand(6, 3, 8, 4, generator=generator()).to(dtype)
    given = x.contiguous(memory_format=layout)
    got = crop_flip(2)(given, generator(1))
    assert (got.shape, got.dtype) == (x.shape, dtype)
    assert torch.equal(got, crop_flip(2)(x, generator(1)))
    assert torch.equal(given, x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_loader_hands_out_the_layout_that_was_asked_for(layout):
    x = torch.randint(0, 256, (9, 3, 4, 4), generator=generator(), dtype=torch.uint8)
    split = Split.of(x, torch.arange(9) % 3, forget=[0], augment=crop_flip(1))
    view = split.retain.on(torch.device("cpu"), torch.float32, layout)
    for batch in view.loader(epochs=1, batch=4, rng=generator()):
        assert batch.x.is_contiguous(memory_format=layout)


def test_the_same_seed_gives_the_same_batch():
    x = torch.rand(20, 3, 8, 8, generator=generator())
    assert torch.equal(crop_flip(4)(x, generator(1)), crop_flip(4)(x, generator(1)))
    assert not torch.equal(crop_flip(4)(x, generator(1)), crop_flip(4)(x, generator(2)))


def test_whether_it_flips_does_not_move_the_crops():
    """So two data sets that differ in it differ in nothing else."""
    x = torch.rand(40, 1, 8, 8, generator=generator())
    flipped, plain = (crop_flip(3, flip=flip)(x, generator(1)) for flip in (True, False))
    for one, other in zip(flipped, plain, strict=True):
        assert torch.equal(one, other) or torch.equal(one, other.flip(2))


def test_it_says_what_it_does():
    assert [repr(crop_flip()), repr(crop_flip(2, flip=False))] == ["crop_flip(4)", "crop_flip(2, flip=False)"]
