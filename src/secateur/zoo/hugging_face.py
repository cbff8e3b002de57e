"""Image classifiers of Hugging Face ``transformers``, as networks from images to logits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from secateur.errors import UsageError, nearest, told
from secateur.zoo.models import Constants, Count, normalize

# what a config calls something that a network of the zoo has a knob for
SHARED = {"image_size": "size", "num_channels": "channels"}


class _Logits:
    """Before a class of transformers: images in, logits out; parameters keep its names."""

    normalize: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """[b, channels, h, w] in, logits [b, classes] out."""
        # the class that comes after this one among the bases has it, which mypy cannot know
        said: Any = super().forward(pixel_values=self.normalize(images), return_dict=True)  # type: ignore[misc]
        logits: Tensor = said.logits
        return logits


def transformers(
    *,
    architecture: str,
    classes: Count = 10,
    channels: Count = 3,
    size: Count = 224,
    config: Mapping[str, Any] | None = None,
    mean: Constants = (),
    std: Constants = (),
) -> nn.Module:
    """An image classifier of Hugging Face ``transformers``: "swin", "vit", "convnext" and others.

    Nothing is downloaded. Parameters have the names that they have in the library's own module, so the state
    dict of a trained one, saved as safetensors, loads strictly by ``weights`` (``save_pretrained`` may write
    older names); give it the architecture, ``config``, ``mean`` and ``std`` that it was trained with.

    Args:
        architecture: The ``model_type`` of its config.json.
        classes: Width of the logits.
        channels: Of the images.
        size: Height and width of the images.
        config: Entries of its config.json that are not the architecture's defaults.
        mean: Per channel, subtracted first; () means 0.5 for each.
        std: Per channel, divided by after that; () means 0.5 for each.

    Returns:
        A new module: images [b, channels, size, size] to logits [b, classes].

    Raises:
        UsageError: transformers is not installed, has no such classifier, or cannot build one of this config.
    """
    hub, given = _transformers(), dict(config or {})
    known = hub.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if architecture not in known:
        raise UsageError(
            f'transformers has no image classifier "{architecture}", {nearest(architecture, list(known))}'
        )
    made_of = hub.CONFIG_MAPPING[architecture]
    entries = made_of().to_dict()
    for name in given:
        if name not in entries:
            raise UsageError(
                f'the config of "{architecture}" has no entry "{name}", {nearest(name, list(entries))}'
            )
    shared = {name: {"size": size, "channels": channels}[knob] for name, knob in SHARED.items()}
    for name in given.keys() & shared.keys():
        if given[name] != shared[name]:
            raise UsageError(
                f"expected {name} = {shared[name]} in `config`, as `{SHARED[name]}` says, got "
                f"{given[name]!r}: images have one shape; leave {name} out"
            )
    given |= {name: value for name, value in shared.items() if name in entries}
    if "id2label" not in given:
        given["num_labels"] = classes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = made_of(**given)
            kinds = hub.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[made_of]
            kind = kinds[0] if isinstance(kinds, tuple) else kinds  # the plain one comes first
            model: nn.Module = type(kind.__name__, (_Logits, kind), {})(settings)
    except Exception as error:  # whatever the library raises here is about the config
        raise UsageError(
            f'expected a `config` that "{architecture}" can be built of for images of {size} pixels, got '
            f"{dict(config or {})}, and transformers says: {told(error)}; change the entry that it names"
        ) from error
    if settings.num_labels != classes:
        raise UsageError(
            f"expected {classes} classes in `config`, as `classes` says, got id2label with "
            f"{settings.num_labels}: leave id2label and label2id out, or take the data that it was trained on"
        )
    model.normalize = normalize(channels, mean, std, size=size if "image_size" in entries else None)
    return model


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            'expected transformers, whose classifiers model.use = "transformers" builds, and it is not '
            'installed: run pip install "secateur[transformers]"'
        ) from error
    return transformers
