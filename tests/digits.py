"""Small networks, trained on scikit-learn's digits in a second."""

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn


@functools.cache
def data():
    """Return images (1797, 64) and labels; the first 1000 are for training."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y)[order]


def trained(model):
    """Train a model for some steps; return it in evaluation mode."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several are slower for so small a model, on a busy machine much so
    x, y = data()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(100):
        batch = torch.randint(1000, (256,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    torch.set_num_threads(n_threads)
    return model.eval()


@torch.no_grad()
def accuracy(model):
    """Return the accuracy on the images that were not trained on."""
    x, y = data()
    return (model(x[1000:]).argmax(1) == y[1000:]).double().mean().item()
