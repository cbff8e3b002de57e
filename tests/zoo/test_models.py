"""Networks: published sizes, torchvision's names, and what is asked of each of them."""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import knobs, zoo
from secateur.errors import DataError, PlanError, UsageError
from secateur.lab.freeze import load_weights, pack_weights
from secateur.network import check_fits, check_repeats, copy_model, probe
from secateur.zoo.models import Normalize
from secateur.zoo.resnet import Subsample

# name -> size of images that it is tried with
SIZES = {
    "small_cnn": 8,
    "mlp": 28,
    "resnet20s": 16,
    "resnet44s": 8,
    "resnet56s": 8,
    "resnet18": 16,
    "resnet50": 8,
    "vgg16_bn": 32,
    "vit_tiny": 32,
    "transformers": 16,
}
GIVEN = {
    "transformers": {
        "architecture": "swin",
        "size": 16,
        "config": {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]},
    }
}
each_network = pytest.mark.parametrize("name", SIZES)
RUN = sc.Run(seed=3, threads=1)


def fresh(name):
    with RUN.seeded("init"):
        return getattr(zoo, name)(channels=3, classes=7, **GIVEN.get(name, {})).eval()


@functools.cache
def made(name):
    """Shared between tests, which copy what they change; with a head that says something."""
    model = fresh(name)
    if name == "vit_tiny":
        nn.init.normal_(model.heads.head.weight, std=0.1, generator=RUN.rng("head"))
    return model


def images(name, b=2, dtype=torch.float32):
    return torch.rand(b, 3, SIZES[name], SIZES[name], generator=RUN.rng("images"), dtype=dtype)


def shapes(call, **given):
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in call(**given).state_dict().items()}


def parameters(call, **given):
    with torch.device("meta"):
        return sum(p.numel() for p in call(**given).parameters())


@pytest.mark.parametrize(
    ("name", "given", "published"),
    [
        ("resnet20s", {}, 269_722),
        ("resnet44s", {}, 658_586),
        ("resnet56s", {}, 853_018),
        ("resnet18", {}, 11_173_962),
        ("resnet50", {}, 23_520_842),
        ("vgg16_bn", {}, 14_728_266),
        ("resnet18", {"stem": "imagenet", "classes": 1000}, 11_689_512),
        ("resnet50", {"stem": "imagenet", "classes": 1000}, 25_557_032),
        ("vgg16_bn", {"stem": "imagenet", "classes": 1000}, 138_365_992),
        ("vit_tiny", {"size": 224, "patch": 16, "classes": 1000}, 5_717_416),
    ],
)
def test_sizes_are_the_published_ones(name, given, published):
    assert parameters(getattr(zoo, name), **given) == published


# torchvision's names and shapes, by rule: it cannot be imported here


def bn(path, c):
    one = {f"{path}.{part}": (c,) for part in ("weight", "bias", "running_mean", "running_var")}
    return one | {f"{path}.num_batches_tracked": ()}


def linear(path, c_in, c_out):
    return {f"{path}.weight": (c_out, c_in), f"{path}.bias": (c_out,)}


def resnet_names(depths, kernels, grows):
    """`kernels` of a block's convolutions; its last one has `grows` times the width."""
    want = {"conv1.weight": (64, 3, 7, 7), **bn("bn1", 64)}
    c_in = 64
    for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=1):
        for block in range(depth):
            path, into = f"layer{stage}.{block}", c_in
            for i, kernel in enumerate(kernels, start=1):
                out = width * grows if i == len(kernels) else width
                want |= {f"{path}.conv{i}.weight": (out, into, kernel, kernel), **bn(f"{path}.bn{i}", out)}
                into = out
            if block == 0 and (stage > 1 or grows > 1):
                want |= {
                    f"{path}.downsample.0.weight": (into, c_in, 1, 1),
                    **bn(f"{path}.downsample.1", into),
                }
            c_in = into
    return want | linear("fc", c_in, 1000)


def vgg_names():
    want, place, c_in = {}, 0, 3
    for c in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if c == "M":
            place += 1
            continue
        want |= {f"features.{place}.weight": (c, c_in, 3, 3), f"features.{place}.bias": (c,)}
        want |= bn(f"features.{place + 1}", c)
        place, c_in = place + 3, c
    for place, sides in ((0, (25088, 4096)), (3, (4096, 4096)), (6, (4096, 1000))):
        want |= linear(f"classifier.{place}", *sides)
    return want


def vit_names():
    want = {"class_token": (1, 1, 192), "conv_proj.weight": (192, 3, 16, 16), "conv_proj.bias": (192,)}
    want["encoder.pos_embedding"] = (1, 197, 192)
    norms = ["encoder.ln"]
    for i in range(12):
        path = f"encoder.layers.encoder_layer_{i}"
        norms += [f"{path}.ln_1", f"{path}.ln_2"]
        want |= {f"{path}.self_attention.in_proj_weight": (576, 192)}
        want |= {f"{path}.self_attention.in_proj_bias": (576,)}
        want |= linear(f"{path}.self_attention.out_proj", 192, 192)
        want |= linear(f"{path}.mlp.0", 192, 768) | linear(f"{path}.mlp.3", 768, 192)
    want |= {f"{norm}.{part}": (192,) for norm in norms for part in ("weight", "bias")}
    return want | linear("heads.head", 192, 1000)


@pytest.mark.parametrize(
    ("name", "given", "want"),
    [
        ("resnet18", {"stem": "imagenet"}, resnet_names((2, 2, 2, 2), (3, 3), 1)),
        ("resnet50", {"stem": "imagenet"}, resnet_names((3, 4, 6, 3), (1, 3, 1), 4)),
        ("vgg16_bn", {"stem": "imagenet"}, vgg_names()),
        ("vit_tiny", {"size": 224, "patch": 16}, vit_names()),
    ],
)
def test_names_and_shapes_are_torchvisions(name, given, want):
    got = shapes(getattr(zoo, name), classes=1000, **given)
    assert {key: got.pop(f"normalize.{key}") for key in ("mean", "std")} == {"mean": (3,), "std": (3,)}
    assert got == want


def test_the_small_resnets_have_no_parameters_in_their_shortcuts():
    got = shapes(zoo.resnet20s)
    assert not [name for name in got if "downsample" in name]
    assert got["conv1.weight"] == (16, 3, 3, 3)
    assert got["layer3.2.conv2.weight"] == (64, 64, 3, 3)
    assert got["fc.weight"] == (10, 64)


@each_network
def test_images_in_logits_out_and_every_parameter_has_a_part(name):
    model = copy_model(made(name))
    logits = model(images(name))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@each_network
def test_double_precision_gives_the_same_logits(name):
    model = copy.deepcopy(made(name)).double()
    with torch.no_grad():
        logits = model(images(name).double())
        assert logits.dtype == torch.float64
        torch.testing.assert_close(logits.float(), made(name)(images(name)), rtol=1e-4, atol=1e-4)


@each_network
def test_the_layout_in_memory_does_not_matter(name):
    model, x = copy.deepcopy(made(name)), images(name)
    with torch.no_grad():
        want = model(x)
        got = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert (got - want).abs().max() <= 1e-5 * max(1, want.abs().max())


@each_network
def test_two_builds_under_one_seed_are_equal(name):
    check_repeats(fresh(name), fresh(name))


@each_network
def test_knobs_are_described_and_checked(name):
    call = getattr(zoo, name)
    for knob in knobs.names(call):
        assert f"        {knob}: " in call.__doc__
    assert inspect.getfullargspec(call).args == []
    with pytest.raises(PlanError, match="classes should be greater than or equal to 1, got 0"):
        knobs.parse(call, {"classes": 0}, where="model")


@pytest.mark.parametrize("name", [name for name in SIZES if name not in ("small_cnn", "mlp")])
def test_the_first_layer_is_called_normalize(name):
    assert isinstance(made(name).normalize, Normalize)


# initialisation


def spread(weight):
    return weight.std().item()


def test_initial_weights_of_the_small_resnets_follow_fan_in():
    model = made("resnet20s")
    assert spread(model.layer3[0].conv1.weight) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert spread(model.fc.weight) == pytest.approx((2 / 64) ** 0.5, rel=0.15)


def test_initial_weights_of_the_large_networks_follow_torchvision():
    for model, conv in ((made("resnet18"), "layer2.0.conv1"), (made("vgg16_bn"), "features.7")):
        weight = model.get_submodule(conv).weight
        assert spread(weight) == pytest.approx((2 / (9 * len(weight))) ** 0.5, rel=0.05)
    assert spread(made("vgg16_bn").classifier.weight) == pytest.approx(0.01, rel=0.1)
    for key, p in made("vgg16_bn").named_parameters():
        if key.endswith("bias"):
            assert not p.any(), key


def test_initial_weights_of_the_transformer_follow_torchvision():
    model = fresh("vit_tiny")
    assert not model(images("vit_tiny")).any()  # a head of zeros
    assert not model.class_token.any()
    assert spread(model.encoder.pos_embedding) == pytest.approx(0.02, rel=0.05)
    block = model.encoder.layers.encoder_layer_5
    assert spread(block.mlp[0].weight) == pytest.approx((2 / (192 + 768)) ** 0.5, rel=0.05)
    assert 0 < spread(block.mlp[3].bias) < 1e-5
    weight = model.conv_proj.weight
    assert spread(weight) == pytest.approx((1 / 48) ** 0.5, rel=0.05)
    assert {layer.eps for layer in model.modules() if isinstance(layer, nn.LayerNorm)} == {1e-6}


# maths


def test_a_shortcut_without_parameters_is_every_second_pixel_between_zeros():
    x = torch.rand(2, 4, 5, 6, generator=RUN.rng("x"))
    got = Subsample(4, 8)(x)
    assert got.shape == (2, 8, 3, 3)
    for c in range(8):
        for i in range(3):
            for j in range(3):
                want = x[:, c - 2, 2 * i, 2 * j] if 2 <= c < 6 else torch.zeros(2)
                assert torch.equal(got[:, c, i, j], want)


def test_only_the_positions_tell_a_transformer_the_order_of_the_patches():
    model, x = copy_model(made("vit_tiny")), images("vit_tiny")
    mirrored = x.unflatten(3, (8, 4)).flip(3).flatten(3)  # the patches of each row, not their pixels
    with torch.no_grad():
        assert (model(x) - model(mirrored)).abs().max() > 1e-3
        nn.init.zeros_(model.encoder.pos_embedding)
        torch.testing.assert_close(model(x), model(mirrored), rtol=0, atol=1e-4)


def test_a_transformer_says_the_same_with_and_without_gradients():
    model, x = copy_model(made("vit_tiny")), images("vit_tiny")
    with torch.no_grad():
        fast = model(x)  # torch takes another path through attention here
    torch.testing.assert_close(fast, model(x).detach(), rtol=0, atol=1e-4)


def test_constants_default_to_a_half_and_are_applied_first():
    x = images("resnet20s")
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    assert torch.equal(zoo.resnet20s().normalize(x), (x - 0.5) / 0.5)
    got = zoo.resnet20s(mean=mean, std=std).normalize(x)
    for c in range(3):
        torch.testing.assert_close(got[:, c], (x[:, c] - mean[c]) / std[c])


def test_the_small_network_is_as_it_was():
    assert list(zoo.small_cnn(width=2).state_dict())[:3] == ["0.mean", "0.std", "1.weight"]
    assert zoo.small_cnn(mean=(0.25,))[0].mean.tolist() == [0.25]
    assert zoo.small_cnn()[0].mean.tolist() == zoo.small_cnn()[0].std.tolist() == [0.5]


# checkpoints

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small(**given):
    return zoo.resnet20s(mean=MEAN, std=STD, **given)


def published(model, *without):
    lacking = ("normalize", *without)
    return {key: value for key, value in model.state_dict().items() if not any(w in key for w in lacking)}


@pytest.mark.parametrize("without", [(), ("num_batches_tracked",)])
def test_a_published_file_loads_strictly_and_the_constants_stand(without, tmp_path):
    weights = published(zoo.resnet20s(), *without)
    check_fits(weights, small())
    model = small()
    assert not any(model.load_state_dict(weights, strict=True))
    assert torch.equal(model.fc.weight, weights["fc.weight"])
    assert torch.equal(model.normalize.mean, torch.tensor(MEAN))
    nested = nn.Sequential(small())
    assert not any(nested.load_state_dict({f"0.{key}": value for key, value in weights.items()}))
    check_fits({f"0.{key}": value for key, value in weights.items()}, nested)


def test_a_published_file_loads_from_disk(tmp_path):
    lean = zoo.resnet20s()
    lean.normalize = nn.Identity()
    (tmp_path / "w.safetensors").write_bytes(pack_weights(lean, {}))
    model = load_weights(small(), tmp_path / "w.safetensors")
    assert torch.equal(model.fc.weight, lean.fc.weight)
    assert torch.equal(model.normalize.std, torch.tensor(STD))


def test_a_checkpoint_brings_its_constants(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(pack_weights(small(), {}))
    model = load_weights(zoo.resnet20s(), tmp_path / "w.safetensors")
    assert torch.equal(model.normalize.mean, torch.tensor(MEAN))
    assert torch.equal(model.normalize.std, torch.tensor(STD))


def test_half_of_the_constants_are_damage():
    weights = small().state_dict()
    del weights["normalize.std"]
    with pytest.raises(DataError, match=r"but normalize.std is missing$"):
        check_fits(weights, small())
    with pytest.raises(RuntimeError, match="Missing key"):
        small().load_state_dict(weights)


def test_where_nothing_may_be_lacking_a_model_without_constants_is_another_architecture():
    check_fits(small().state_dict(), small(), whole=True)
    with pytest.raises(DataError, match=r"normalize.mean is missing; normalize.std is missing$"):
        check_fits(published(small()), small(), whole=True)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: zoo.resnet20s(classes=7), r"fc.bias has shape \(7,\), not \(10,\); fc.weight has shape"),
        (zoo.resnet44s, "layer1.3.bn1.bias is not in the architecture"),
        (zoo.small_cnn, "0.mean is not in the architecture; .* and 116 more$"),
    ],
)
def test_a_file_of_another_network_is_refused_in_a_sentence(other, told):
    with pytest.raises(DataError, match=f"^expected weights that fit the architecture exactly, but .*{told}"):
        check_fits(other().state_dict(), small())


# refusals


@pytest.mark.parametrize(
    "name", ["small_cnn", "mlp", "resnet20s", "resnet18", "vgg16_bn", "vit_tiny", "transformers"]
)
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mean": (0.5,)}, r"one number in `mean` for each of 3 channels, got 1"),
        ({"std": (0.5,) * 4}, r"one number in `std` for each of 3 channels, got 4"),
        ({"std": (0.5, 0.0, 0.5)}, r"numbers above zero in `std`"),
        ({"mean": (0.5, float("nan"), 0.5)}, r"finite numbers in `mean`"),
    ],
)
def test_constants_that_cannot_be_are_refused(name, given, told):
    with torch.device("meta"), pytest.raises(UsageError, match=f"^expected .*{told}"):
        getattr(zoo, name)(channels=3, **GIVEN.get(name, {}), **given)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16_bn"])
def test_a_stem_that_is_not_there_is_refused(name):
    with torch.device("meta"), pytest.raises(UsageError, match='did you mean "cifar"'):
        getattr(zoo, name)(stem="cifar10")


@each_network
def test_other_channels_are_refused(name):
    x = images(name)[:, :1]  # would be broadcast
    with pytest.raises(DataError, match=r"^expected images \[b, 3, .*got a tensor of shape \(2, 1, "):
        made(name)(x)


@pytest.mark.parametrize("name", ["mlp", "vit_tiny", "transformers"])
def test_another_size_is_refused(name):
    size = SIZES[name]
    with pytest.raises(
        DataError, match=rf"expected images \[b, 3, {size}, {size}\], got .*\(2, 3, 24, {size}\)"
    ):
        made(name)(torch.ones(2, 3, 24, size))


def test_images_that_pooling_would_eat_are_refused():
    with pytest.raises(DataError, match=r"at least 32 x 32 pixels, got a tensor of shape \(2, 3, 32, 31\)"):
        made("vgg16_bn")(torch.ones(2, 3, 32, 31))


def test_a_patch_divides_the_size():
    with pytest.raises(UsageError, match=r"divides the size of the images \(32\), got 5"):
        zoo.vit_tiny(patch=5)


def test_what_a_network_says_of_the_data_is_told():
    told = r"^expected images \[b, 3, h, w\], got a tensor of shape \(2, 1, 8, 8\)"
    with pytest.raises(DataError, match=told):
        probe(made("resnet20s"), torch.ones(2, 1, 8, 8))
