"""Skips: how a unit joins its shortcut x and its branch f = F(x) (He et al. 2016, section 3, Fig. 2 and Table 1).

Each is a module `(x, f) -> y` on tensors of one shape, made for `channels` channels, and is named as it is typed:
`skip=exclusive_gate`. A plain network has none.
"""

from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake


def none(channels: int) -> None:
    """y = f: a plain network, the same layers without the shortcut (He et al. 2015, section 3.3)."""


class identity(nn.Module):
    """y = x + f (He et al. 2015, eq. 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return x + f


class scaled(nn.Module):
    """y = scale x + branch f: `scale` is the lambda of He et al. 2016, eq. 6; `branch` weighs F as in Fig. 2(b)."""

    def __init__(self, channels: int, *, scale: float, branch: float) -> None:
        super().__init__()
        self.scale, self.branch = scale, branch

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.scale * x + self.branch * f

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, branch={self.branch:g}"


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution on (N, C, H, W), the same linear map on (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, bias=False)

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        if input.dim() == 2:
            return functional.linear(input, self.weight.flatten(1), bias)
        return functional.conv2d(input, self.weight, bias)


class _Gate(nn.Module):
    """g(x) = sigmoid(W_g x + b_g), W_g a 1x1 convolution, b_g = `bias` at the start (He et al. 2016, section 3.1).

    b_g is a parameter of the gate, not of the convolution, so that no init resets it.
    """

    def __init__(self, channels: int, *, bias: float) -> None:
        super().__init__()
        self.conv = _Pointwise(channels)
        self.bias = nn.Parameter(self.conv.weight.new_full((channels,), bias))

    def g(self, x: Tensor) -> Tensor:
        return self.conv(x, self.bias).sigmoid()


class exclusive_gate(_Gate):
    """y = (1 - g(x)) x + g(x) f: exclusive gating, as in Highway networks (He et al. 2016, Fig. 2(c))."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        g = self.g(x)
        return (1 - g) * x + g * f


class shortcut_gate(_Gate):
    """y = (1 - g(x)) x + f: shortcut-only gating (He et al. 2016, Fig. 2(d))."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return (1 - self.g(x)) * x + f


class conv(nn.Module):
    """y = W x + f, W a 1x1 convolution on every shortcut (He et al. 2016, Fig. 2(e))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _Pointwise(channels)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.conv(x) + f


class dropout(nn.Module):
    """y = m x + f, each entry of m zero with probability `p`, else one; in evaluation its mean, m = 1 - p.

    He et al. 2016, Fig. 2(f): "a scale of lambda with an expectation of 0.5". `rescale` divides m by 1 - p, so that
    the expectation is one, as most libraries do today.
    """

    def __init__(self, channels: int, *, p: float, rescale: bool) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise Mistake(f"skip.p={p}: a probability, at least 0 and under 1")
        self.p, self.scale = p, 1.0 if rescale else 1 - p

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.scale * functional.dropout(x, self.p, self.training) + f
