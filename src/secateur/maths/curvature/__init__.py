"""Second-order maths of a classifier: gradients, Fisher, Hessian, GGN, and what is solved with them.

Rows come as tuples that begin with x and y; the loss is the mean cross-entropy over all of them, in nats.
Rows must not look at one another, so a model with batch norm comes in evaluation mode. No model is changed.
Every pass over rows is a sum, so that an all-reduce can join it.
"""

from secateur.maths.curvature.eigen import Eigenvalue, top_eigenvalue
from secateur.maths.curvature.fisher import diagonal_fisher
from secateur.maths.curvature.mean import mean_gradient
from secateur.maths.curvature.passes import Batches, Chunk, Pass
from secateur.maths.curvature.precondition import low_rank
from secateur.maths.curvature.products import Curvature, Product, ggn_product, hessian_product
from secateur.maths.curvature.samples import sample_gradients
from secateur.maths.curvature.solvers import Solution, solve

__all__ = [
    "Batches",
    "Chunk",
    "Curvature",
    "Eigenvalue",
    "Pass",
    "Product",
    "Solution",
    "diagonal_fisher",
    "ggn_product",
    "hessian_product",
    "low_rank",
    "mean_gradient",
    "sample_gradients",
    "solve",
    "top_eigenvalue",
]
