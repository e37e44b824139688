"""Networks for ImageNet, written from their papers: AlexNet, VGG, ResNet, DenseNet, SqueezeNet.

Images, shape (n, 3, 224, 224) -> scores of the classes, shape (n, n_classes). Parameters have the
names, and the order, of torchvision's models: their state_dicts can be loaded.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VGG = {  # convolutions in each of the five stages
    11: (1, 1, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
RESNET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # blocks in each of the four stages


def alexnet(n_classes: int = 1000) -> nn.Sequential:
    """Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.

    AlexNet in one tower: no groups and no normalisation; 61,100,840 parameters.
    """
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, n_classes),
    )  # fmt: skip
    return in_order(features=features, flatten=nn.Flatten(), classifier=classifier)


def vgg(n_layers: int = 16, n_classes: int = 1000) -> nn.Sequential:
    """Simonyan, Zisserman, "Very Deep Convolutional Networks", ICLR 2015, table 1: A, D and E.

    VGG-16 has 138,357,544 parameters, 102,764,544 of them in its first linear layer.
    """
    layers: list[nn.Module] = []
    n_in = 3
    for n_out, n_convolutions in zip((64, 128, 256, 512, 512), VGG[n_layers], strict=True):
        for _ in range(n_convolutions):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
            n_in = n_out
        layers.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, n_classes),
    )  # fmt: skip
    return in_order(features=nn.Sequential(*layers), flatten=nn.Flatten(), classifier=classifier)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which has weights where the shape changes (option B)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            projection = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


def resnet(n_layers: int = 18, n_classes: int = 1000, width: int = 64) -> nn.Sequential:
    """He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, table 1.

    ResNet-18 has 11,689,512 parameters; its first stage is `width` channels wide.
    """
    stages, n_in = OrderedDict[str, nn.Module](), width
    for i, n_blocks in enumerate(RESNET[n_layers]):
        n_out, stride = width << i, 2 if i else 1
        blocks = [ResidualBlock(n_in, n_out, stride)]
        blocks += [ResidualBlock(n_out, n_out, 1) for _ in range(n_blocks - 1)]
        stages[f"layer{i + 1}"], n_in = nn.Sequential(*blocks), n_out
    return in_order(
        conv1=nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(width), relu=nn.ReLU(), maxpool=nn.MaxPool2d(3, 2, padding=1),
        **stages, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
        fc=nn.Linear(n_in, n_classes),
    )  # fmt: skip


class DenseLayer(nn.Module):
    """Add new channels to all that came before: x -> (x, f(x))."""

    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


def densenet(
    n_layers: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32, n_classes: int = 1000
) -> nn.Sequential:
    """Huang, Liu, van der Maaten, Weinberger, "Densely Connected Networks", CVPR 2017: DenseNet-BC.

    Each block has `n_layers` layers of `growth` new channels, and between two blocks half of the
    channels remain. DenseNet-121 is the default, with 7,978,856 parameters.
    """
    n = 2 * growth
    features = in_order(
        conv0=nn.Conv2d(3, n, 7, stride=2, padding=3, bias=False),
        norm0=nn.BatchNorm2d(n), relu0=nn.ReLU(), pool0=nn.MaxPool2d(3, 2, padding=1),
    )  # fmt: skip
    for i, n_here in enumerate(n_layers, 1):
        if i > 1:
            transition = in_order(
                norm=nn.BatchNorm2d(n), relu=nn.ReLU(),
                conv=nn.Conv2d(n, n // 2, 1, bias=False), pool=nn.AvgPool2d(2),
            )  # fmt: skip
            features.add_module(f"transition{i - 1}", transition)
            n //= 2
        layers = {f"denselayer{j + 1}": DenseLayer(n + j * growth, growth) for j in range(n_here)}
        features.add_module(f"denseblock{i}", in_order(**layers))
        n += n_here * growth
    features.add_module(f"norm{len(n_layers) + 1}", nn.BatchNorm2d(n))
    return in_order(
        features=features, relu=nn.ReLU(), avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
        classifier=nn.Linear(n, n_classes),
    )  # fmt: skip


class Fire(nn.Module):
    """Squeeze to few channels, then expand with kernels of 1x1 beside such of 3x3."""

    def __init__(self, n_in: int, n_squeezed: int, n_each: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, n_squeezed, 1)
        self.expand1x1 = nn.Conv2d(n_squeezed, n_each, 1)
        self.expand3x3 = nn.Conv2d(n_squeezed, n_each, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def squeezenet(n_classes: int = 1000) -> nn.Sequential:
    """Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016.

    Version 1.1 of its authors' repository, which pools earlier; 1,235,496 parameters.
    """
    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
    features = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(),
        Fire(64, 16, 64), Fire(128, 16, 64), pool(),
        Fire(128, 32, 128), Fire(256, 32, 128), pool(),
        Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Conv2d(512, n_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )
    return in_order(features=features, classifier=classifier, flatten=nn.Flatten())


def in_order(**layers: nn.Module) -> nn.Sequential:
    """Chain layers that have names."""
    return nn.Sequential(OrderedDict(layers))
