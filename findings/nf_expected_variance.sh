#!/bin/sh
# timm 1.0.31 with torch 2.14.1: networks without norms divide by a deviation that their signal does not have.
# Guess: a norm-free network divides each unit's input by the deviation that a formula foresees (Brock et al. 2021), so
#   at initialisation its variance over the foreseen one is about 1 in every unit, as in a network with batch norm.
# Seen (2026-11-28, Gaussian images, as in the paper's plots of the signal): 0.007 at dm_nfnet_f0's last unit, 0.05 at
#   nf_resnet50's, which begins with 2.9 behind its max-pooling. Each shortcut that halves the size averages 2x2 pixels
#   first, which takes the variance by four, and the formula does not know it. With every second pixel taken instead of
#   the average 0.57 and 1.6 are left. Smoother images lose less: with the spectrum of natural ones 0.02 and 0.5.
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.2
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import timm
import torch
from torch import nn


class EverySecond(nn.Module):
    def forward(self, x):
        return x[:, :, ::2, ::2]


def ratios(name, x, averages=True):
    """Of each unit: the variance of what enters it over the one by whose root it divides."""
    torch.manual_seed(0)
    net, found = timm.create_model(name).train(), []
    for module in net.modules():
        kind = type(module).__name__
        if kind == "DownsampleAvg" and not averages and not isinstance(module.pool, nn.Identity):
            module.pool = EverySecond()
        if kind == "NormFreeBlock":
            module.register_forward_hook(lambda m, given, _: found.append(given[0].var().item() * m.beta**2))
    with torch.no_grad():
        net(x)
    return found


torch.manual_seed(1)
white = torch.randn(8, 3, 128, 128)
frequency = torch.fft.fftfreq(128)
distance = (frequency[:, None] ** 2 + frequency**2).sqrt().clamp(min=1 / 128)
natural = torch.fft.ifft2(torch.fft.fft2(white) / distance).real  # power falls with the frequency squared
natural = (natural - natural.mean()) / natural.std()
last = {}
for name in ("dm_nfnet_f0", "nf_resnet50"):
    last[name] = [ratios(name, white), ratios(name, natural), ratios(name, white, averages=False)]
    for kind, found in zip(("white", "natural spectrum", "white, no averages"), last[name]):
        print(name, kind, *(f"{ratio:.2g}" for ratio in found))
for name, high, middle in (("dm_nfnet_f0", 0.02, 0.1), ("nf_resnet50", 0.1, 1.0)):
    white, natural, without = (found[-1] for found in last[name])
    assert white < high and natural < middle and 0.4 < without < 2.5, (name, white, natural, without)
print("as described")
PYTHON
