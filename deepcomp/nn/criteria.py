"""Criteria: functions from a weight to scores; what scores least is pruned first.

The scores are of the weight's shape, or of a shape that broadcasts to it: then entries that share
a score are pruned together. A filter is a slice along the first dimension, so that scores of
filters are of shape (n_filters, 1, ...): in linear and convolutional layers it makes one output (in
transposed convolutions it takes one input). Its bias, and its batch norm, are not pruned with it:
`deepcomp.nn.channels.silence` does that, and `deepcomp.shrink` removes the filter.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Criterion = Callable[[Tensor], Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """Score each entry by its absolute value.

    Parameters
    ----------
    weight : Tensor

    Returns
    -------
    Tensor, shape of `weight`

    References
    ----------
    Han, Mao, Dally, "Deep Compression", ICLR 2016, section 2.

    Examples
    --------
    >>> magnitude(torch.tensor([[1.0, -2.0]]))
    tensor([[1., 2.]])
    """
    return weight.abs()


def l1_norm(weight: Tensor) -> Tensor:
    """Score each filter by the sum of its absolute values.

    Parameters
    ----------
    weight : Tensor, shape (n_filters, ...)

    Returns
    -------
    Tensor, shape (n_filters, 1, ...)

    References
    ----------
    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017,
    section 3.1.

    Examples
    --------
    >>> l1_norm(torch.tensor([[1.0, -2.0], [0.0, 1.0]]))
    tensor([[3.],
            [1.]])
    """
    return _of_filters(weight.flatten(1).abs().sum(1), weight)


def geometric_median(weight: Tensor) -> Tensor:
    """Score each filter by the sum of its distances to all others that are not zero.

    The filters nearest to the geometric median of them all score least: the others can stand in
    for them.

    Parameters
    ----------
    weight : Tensor, shape (n_filters, ...)

    Returns
    -------
    Tensor, shape (n_filters, 1, ...)

    References
    ----------
    He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural
    Networks Acceleration", CVPR 2019, section 3.3.

    Examples
    --------
    >>> geometric_median(torch.tensor([[1.0], [2.0], [6.0]]))
    tensor([[6.],
            [5.],
            [9.]])
    """
    filters = weight.flatten(1).float()
    # without the shortcut through a matrix product, whose cancellation reorders near filters
    mode = "donot_use_mm_for_euclid_dist"
    alive = filters[filters.any(1)]
    return _of_filters(torch.cdist(filters, alive, compute_mode=mode).sum(1), weight)


def signal_to_noise(sigma: Tensor | Callable[[], Tensor]) -> Criterion:
    """Make the criterion of a Bayesian layer: the mean of a weight over its deviation.

    Parameters
    ----------
    sigma : Tensor, or callable that returns one
        Standard deviations, of the shape of the means. Give a callable where training changes
        them: ``signal_to_noise(lambda: torch.nn.functional.softplus(layer.weight_rho))``.

    Returns
    -------
    callable
        From the means of a weight to ``abs(mean) / sigma``.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra, "Weight Uncertainty in Neural Networks", ICML
    2015, section 5.2.

    Examples
    --------
    >>> signal_to_noise(torch.tensor([[0.5, 4.0]]))(torch.tensor([[1.0, -2.0]]))
    tensor([[2.0000, 0.5000]])
    """

    def score(mean: Tensor) -> Tensor:
        return mean.abs() / (sigma() if callable(sigma) else sigma)

    return score


def _of_filters(scores: Tensor, weight: Tensor) -> Tensor:
    return scores.reshape(-1, *[1] * (weight.dim() - 1))
