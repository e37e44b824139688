"""The ResNets for CIFAR-10 of He, Zhang, Ren, Sun, "Deep Residual Learning", 2015, section 4.2.

Three stages of 16, 32 and 64 channels; 6n + 2 layers with n blocks in a stage. The shortcuts have
no weights (option A). Names are those of the checkpoints of akamaster/pytorch_resnet_cifar10.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride = stride
        self.n_new = n_out - n_in

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every second row and column; the new channels, half on each side, are zero."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.n_new // 2, self.n_new // 2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Images, shape (n, 3, 32, 32) -> scores of the classes, shape (n, 10)."""

    def __init__(self, n_layers: int = 20) -> None:
        super().__init__()
        if n_layers < 8 or n_layers % 6 != 2:
            raise ValueError(f"n_layers is {n_layers}: expected 8, 14, 20, ... (6n + 2)")
        n_blocks = (n_layers - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, n_blocks, stride=1)
        self.layer2 = stage(16, 32, n_blocks, stride=2)
        self.layer3 = stage(32, 64, n_blocks, stride=2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.mean(x, dim=(2, 3)))


def stage(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    """The first block changes the number of channels and the resolution."""
    first = Block(n_in, n_out, stride)
    return nn.Sequential(first, *(Block(n_out, n_out, 1) for _ in range(n_blocks - 1)))
