"""Narrows a network in place and gives it random weights and batch-norm statistics: `draw(model, x, width, random)`.

Layers keep their kind, order, windows and strides. One forward pass over `x` sets each layer when its input arrives, so
the number of input channels follows from the layers before it. Weights are small integers times a power of two, and
statistics have few bits, so that files compress well. Each layer's scale keeps its outputs near 1.
"""
import math
import numpy as np, torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

class Width:
    """Maps a number of channels to a narrow one, or to itself.

    `shift` is the range of biases and betas. They are mostly positive, since ReLUs that cut half of their values amplify
    rounding from layer to layer.
    """

    def __init__(self, divisor=1, multiple=1, keep=(), shift=(0.0, 1.0)):
        self.divisor, self.multiple, self.keep, self.shift = divisor, multiple, keep, shift

    def __call__(self, channels):
        if self.divisor == 1 or channels in self.keep or channels < 4:
            return channels
        return max(4, self.multiple * round(channels / self.divisor / self.multiple))

def groups_of(wanted, c, k):
    """The number of groups nearest to `wanted` that divides both, 2 at least."""
    fit = [g for g in range(2, math.gcd(c, k) + 1) if c % g == 0 and k % g == 0]
    if not fit:
        raise ValueError(f"{c} and {k} channels have no common groups: give the network an even width")
    return min(fit, key=lambda g: abs(g - wanted))

def integers(random, shape, narrow):
    """Weights of -1, 0, 1 for narrow networks, finer ones otherwise."""
    if not narrow:
        return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
    return torch.from_numpy(random.choice(np.float32([-2, -1, -1, 0, 0, 1, 1, 2]), shape))

def steps(random, low, high, step, shape):
    return torch.from_numpy(np.float32(random.integers(round(low / step), round(high / step) + 1, shape) * step))

def bits(values, n):
    """`values` rounded to `n` significant bits."""
    fraction, exponent = np.frexp(np.asarray(values, np.float64))
    return torch.from_numpy(np.float32(np.ldexp(np.round(fraction * 2**n) / 2**n, exponent)))

def set_conv(m, x, width, random):
    c, k, groups = x.shape[1], width(m.out_channels), m.groups
    k = getattr(m, "narrow_out", k)
    if m.groups == m.in_channels and m.groups > 1:
        groups, k = c, c * (m.out_channels // m.in_channels)
    elif m.groups > 1 and width.divisor > 1:
        groups = groups_of(c / (m.in_channels / m.groups), c, k)
    m.in_channels, m.out_channels, m.groups = c, k, groups
    m.weight = nn.Parameter(integers(random, (k, c // groups, *m.kernel_size), width.divisor > 1), False)
    if m.bias is not None:
        m.bias = nn.Parameter(torch.zeros(k), False)

def set_linear(m, x, width, random):
    m.in_features, m.out_features = x.shape[-1], width(m.out_features)
    m.weight = nn.Parameter(integers(random, (m.out_features, m.in_features), width.divisor > 1), False)
    if m.bias is not None:
        m.bias = nn.Parameter(torch.zeros(m.out_features), False)

def set_norm(m, x, width, random):
    """Statistics near those of `x`, none of them equal to it."""
    c = m.num_features = x.shape[1]
    axes = [i for i in range(x.dim()) if i != 1]
    var, mean = torch.var_mean(x, axes, correction=0)
    var = var.clamp(min=0.05 * float(var.mean()) + 1e-3)
    if x[0, 0].numel() == 1:
        # Means of maps differ little between images: norms would amplify their rounding.
        var = torch.maximum(var, mean.square() / 4)
    mean += var.sqrt() * steps(random, -0.25, 0.25, 1 / 8, c)
    var *= steps(random, 0.75, 1.5, 1 / 4, c)
    m.running_mean, m.running_var = bits(mean, 4), bits(var, 3)
    if m.affine:
        gamma = steps(random, 0.5, 1.5, 1 / 8, c) * torch.from_numpy(random.choice(np.float32([1, 1, 1, 1, -1]), c))
        m.weight = nn.Parameter(gamma, False)
        m.bias = nn.Parameter(steps(random, *width.shift, 1 / 8, c), False)

def set_prelu(m, x, width, random):
    m.num_parameters = x.shape[1] if m.num_parameters > 1 else 1
    m.weight = nn.Parameter(steps(random, 0.0, 0.5, 1 / 8, m.num_parameters), False)

def rescale(m, y, width, random):
    """Divides the weights by a power of two near the spread of `y`, draws the bias, returns the output as it is then."""
    scale = 2.0 ** -round(math.log2(float(y.std(correction=0)) + 1e-6))
    m.weight *= scale
    y = y * scale
    if m.bias is not None:
        m.bias += steps(random, *width.shift, 1 / 8, m.bias.shape)
        y = y + m.bias.reshape(-1, *[1] * (y.dim() - 2))
    return y

def spread_logits(m, y):
    """Sets the last layer, which gives `y`, so that logits differ between images and classes, about 1 apart."""
    rows = y.reshape(y.shape[0], y.shape[1], -1).mean(2) - (0 if m.bias is None else m.bias)
    between = float((rows - rows.mean(0)).std(correction=0))
    scale = 2.0 ** -round(math.log2(max(between, float(rows.std(correction=0)) / 32) + 1e-6))
    m.weight *= scale
    if m.bias is not None:
        m.bias.copy_(bits(-scale * rows.mean(0), 4) + torch.linspace(-1, 1, rows.shape[1]).mul(8).round() / 8)

# Modules whose code holds channel counts. Each function runs before the module does.

def mixed_conv(m, x, width):
    from timm.layers.mixed_conv2d import _split_channels
    parts = list(m.values())
    m.splits = _split_channels(x.shape[1], len(parts))
    if parts[0].groups == 1:
        for part, k in zip(parts, _split_channels(width(sum(p.out_channels for p in parts)), len(parts))):
            part.narrow_out = k

def ghost(m, x, width):
    m.out_chs = width(m.out_chs)
    m.primary_conv[0].narrow_out = -(-m.out_chs // 2)

def bottle2neck(m, x, width):
    m.width = max(2, width(m.width))
    m.conv1.narrow_out = m.width * m.scale
    for conv in m.convs:
        conv.narrow_out = m.width

def cross_stage(m, x, width):
    m.expand_chs = width(m.expand_chs)

def linear_bottleneck(m, x, width):
    m.in_channels = x.shape[1]

HOLD_COUNTS = {"MixedConv2d": mixed_conv, "GhostModule": ghost, "Bottle2neck": bottle2neck, "CrossStage": cross_stage,
               "LinearBottleneck": linear_bottleneck}

@torch.no_grad()
def draw(model, x, width, random):
    """Sets every layer of `model`; `x` are the images that logits will be compared on."""
    model.eval()
    hooks, called, given = [], [], {}
    def before(m, inputs):
        if m not in called:
            kind = set_conv if isinstance(m, nn.Conv2d) else set_linear if isinstance(m, nn.Linear) else \
                set_prelu if isinstance(m, nn.PReLU) else set_norm
            kind(m, inputs[0], width, random)
    def after(m, inputs, y):
        if m not in called:
            called.append(m)
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                given["last"] = rescale(m, y, width, random)
                return given["last"]
    def counts(m, inputs):
        if m not in called and width.divisor > 1:
            called.append(m)
            HOLD_COUNTS[type(m).__name__](m, inputs[0], width)
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear, nn.PReLU, _BatchNorm)):
            hooks += [m.register_forward_pre_hook(before), m.register_forward_hook(after)]
        elif type(m).__name__ in HOLD_COUNTS:
            hooks.append(m.register_forward_pre_hook(counts))
    model(x)
    for hook in hooks:
        hook.remove()
    last = [m for m in called if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    spread_logits(last, given["last"])
    idle = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in called]
    if idle:
        raise ValueError(f"layers that never ran: {idle}")
    return model(x)
