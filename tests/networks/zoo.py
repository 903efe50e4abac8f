"""The networks that people have: how each is built, its usual image size, and how its narrow twin is made."""
from dataclasses import dataclass, field
import cifar_style

@dataclass
class Entry:
    """`size`: height and width of the twin's images. `divisor`, `multiple`, `shift`: see `narrow.Width`."""
    size: tuple = (64, 64)
    divisor: int = 16
    multiple: int = 1
    full: int = 224
    options: dict = field(default_factory=dict)
    network: str = ""
    shift: tuple = (0.0, 1.0)

TORCHVISION = {
    "alexnet": Entry((224, 224), 32),
    "vgg11_bn": Entry((224, 224), 32),
    "vgg16_bn": Entry((224, 224), 32),
    "resnet18": Entry((64, 48)),
    "resnet50": Entry((33, 47), 32),
    "resnext50_32x4d": Entry((64, 64), 32, 4),
    "wide_resnet50_2": Entry((64, 64), 32),
    "regnet_x_400mf": Entry((64, 64), 8, 4),
    "regnet_y_400mf": Entry((64, 64), 8, 4),
    "densenet121": Entry((64, 64)),
    "googlenet": Entry((64, 64), options=dict(aux_logits=False, init_weights=False)),
    "googlenet_transform": Entry((70, 64), network="googlenet",
                                 options=dict(aux_logits=False, init_weights=False, transform_input=True)),
    "inception_v3": Entry((139, 139), full=299, shift=(0.25, 1.5), options=dict(aux_logits=False, init_weights=False)),
    "inception_v3_transform": Entry((99, 111), full=299, shift=(0.25, 1.5), network="inception_v3",
                                    options=dict(aux_logits=False, init_weights=False, transform_input=True)),
    "mobilenet_v2": Entry((64, 64)),
    "mobilenet_v3_small": Entry((64, 80)),
    "mobilenet_v3_large": Entry((64, 64)),
    "mnasnet1_0": Entry((64, 64)),
    "shufflenet_v2_x1_0": Entry((64, 64)),
    "squeezenet1_1": Entry((64, 64)),
    "efficientnet_b0": Entry((64, 64)),
    "efficientnet_v2_s": Entry((64, 64), 32),
}
TIMM = {
    "efficientnet_lite0": Entry((64, 64)),
    "tf_efficientnet_lite0": Entry((65, 64)),
    "mobilenetv4_conv_small": Entry((64, 64)),
    "repvgg_a0": Entry((64, 64)),
    "ghostnet_100": Entry((64, 64), 8, 2),
    "hardcorenas_a": Entry((64, 64)),
    "lcnet_050": Entry((64, 64), 8),
    "resnet10t": Entry((63, 64)),
    "cspresnet50": Entry((64, 64), 16, 2),
    "dla34": Entry((64, 64)),
    "res2net50_26w_4s": Entry((64, 64), 26),
    "rexnet_100": Entry((64, 64), 4),
    "mobileone_s0": Entry((64, 64)),
    "fbnetc_100": Entry((64, 64)),
    "hrnet_w18_small": Entry((64, 64), 8),
    "ese_vovnet39b": Entry((64, 64), 32),
    "darknet53": Entry((64, 64), 32),
    "mixnet_s": Entry((64, 64), 8),
}
CIFAR = {name: Entry((32, 32), full=32) for name in cifar_style.NETWORKS}
CIFAR["cifar_vgg16_bn"].divisor = 32
CIFAR["cifar_densenet"].divisor = 4
ALL = {**TORCHVISION, **TIMM, **CIFAR}

def build(name, classes):
    """The network at its full width, with whatever weights its constructor gives."""
    entry = ALL[name]
    if name in CIFAR:
        return cifar_style.NETWORKS[name](classes)
    if name in TIMM:
        import timm
        return timm.create_model(entry.network or name, pretrained=False, num_classes=classes, **entry.options)
    import torchvision
    return torchvision.models.get_model(entry.network or name, weights=None, num_classes=classes, **entry.options)
