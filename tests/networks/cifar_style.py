"""Networks for 32 x 32 images, in the shapes that CIFAR-10 made usual, written for these tests."""
import torch
from torch import nn
from torch.nn import functional as F

def conv_bn(c, k, r=3, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(c, k, r, stride, r // 2, groups=groups, bias=False), nn.BatchNorm2d(k), nn.ReLU())

class Classifier(nn.Module):
    """Features, mean over the map, one linear layer."""

    def __init__(self, features, width, classes):
        super().__init__()
        self.features, self.classifier = features, nn.Linear(width, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))

class Vgg16(nn.Module):
    def __init__(self, classes):
        super().__init__()
        layers, c = [], 3
        for k, count in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
            for _ in range(count):
                layers += [nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k), nn.ReLU(inplace=True)]
                c = k
            layers.append(nn.MaxPool2d(2, 2))
        self.features, self.classifier = nn.Sequential(*layers, nn.AvgPool2d(1, 1)), nn.Linear(512, classes)

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))

class PreActBlock(nn.Module):
    """Norm and ReLU before each convolution; the projection reads what the first ReLU gives."""

    def __init__(self, c, k, stride, gate=False):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c), nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(k), nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.project = nn.Conv2d(c, k, 1, stride, bias=False) if stride != 1 or c != k else None
        self.squeeze = nn.Conv2d(k, k // 16, 1) if gate else None
        self.excite = nn.Conv2d(k // 16, k, 1) if gate else None

    def forward(self, x):
        y = F.relu(self.norm1(x))
        skip = x if self.project is None else self.project(y)
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        if self.squeeze is not None:
            w = F.avg_pool2d(y, y.size(2))
            y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(w))))
        return y + skip

def preact_resnet18(classes, gate=False):
    blocks, c = [nn.Conv2d(3, 64, 3, padding=1, bias=False)], 64
    for k, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        blocks += [PreActBlock(c, k, stride, gate), PreActBlock(k, k, 1, gate)]
        c = k
    return Classifier(nn.Sequential(*blocks, nn.BatchNorm2d(512), nn.ReLU()), 512, classes)

class Inception(nn.Module):
    def __init__(self, c, one, three, five, pooled):
        super().__init__()
        self.one = conv_bn(c, one, 1)
        self.three = nn.Sequential(conv_bn(c, three[0], 1), conv_bn(*three))
        self.five = nn.Sequential(conv_bn(c, five[0], 1), conv_bn(*five), conv_bn(five[1], five[1]))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(c, pooled, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)

def googlenet(classes):
    pool = lambda: nn.MaxPool2d(3, 2, 1)
    return Classifier(nn.Sequential(
        conv_bn(3, 192),
        Inception(192, 64, (96, 128), (16, 32), 32), Inception(256, 128, (128, 192), (32, 96), 64), pool(),
        Inception(480, 192, (96, 208), (16, 48), 64), Inception(512, 160, (112, 224), (24, 64), 64),
        Inception(512, 128, (128, 256), (24, 64), 64), Inception(512, 112, (144, 288), (32, 64), 64),
        Inception(528, 256, (160, 320), (32, 128), 128), pool(),
        Inception(832, 256, (160, 320), (32, 128), 128), Inception(832, 384, (192, 384), (48, 128), 128)), 1024, classes)

class DenseLayer(nn.Module):
    def __init__(self, c, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c), nn.Conv2d(c, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([y, x], 1)

def densenet(classes, growth=12):
    c, layers = 2 * growth, [nn.Conv2d(3, 2 * growth, 3, padding=1, bias=False)]
    for stage in range(3):
        for _ in range(16):
            layers.append(DenseLayer(c, growth))
            c += growth
        if stage < 2:
            layers += [nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2)]
            c //= 2
    return Classifier(nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU()), c, classes)

class InvertedResidual(nn.Module):
    def __init__(self, c, k, expand, stride):
        super().__init__()
        wide = c * expand
        self.layers = nn.Sequential(conv_bn(c, wide, 1), conv_bn(wide, wide, 3, stride, wide),
                                    nn.Conv2d(wide, k, 1, bias=False), nn.BatchNorm2d(k))
        self.project = None if stride != 1 else nn.Identity() if c == k else \
            nn.Sequential(nn.Conv2d(c, k, 1, bias=False), nn.BatchNorm2d(k))

    def forward(self, x):
        y = self.layers(x)
        return y if self.project is None else y + self.project(x)

def mobilenet_v2(classes):
    """Keeps 32 x 32 through the first stages, and projects where the number of channels changes."""
    layers, c = [conv_bn(3, 32)], 32
    for expand, k, count, stride in [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                     (6, 160, 3, 2), (6, 320, 1, 1)]:
        for i in range(count):
            layers.append(InvertedResidual(c, k, expand, stride if i == 0 else 1))
            c = k
    return Classifier(nn.Sequential(*layers, conv_bn(320, 1280, 1)), 1280, classes)

NETWORKS = {
    "cifar_vgg16_bn": Vgg16,
    "cifar_preact_resnet18": preact_resnet18,
    "cifar_googlenet": googlenet,
    "cifar_densenet": densenet,
    "cifar_senet18": lambda classes: preact_resnet18(classes, gate=True),
    "cifar_mobilenet_v2": mobilenet_v2,
}
