"""The zoo: data sets and networks that plans call by name."""

from secateur.zoo.datasets import Collection, digits
from secateur.zoo.models import Normalize, small_cnn

__all__ = ["Collection", "Normalize", "digits", "small_cnn"]
