#!/bin/sh
# unet 0.8.1 with torch 2.14.1: the default 2D network of the PyPI package `unet` is not the paper's.
# Guess: five levels from 64 channels, unpadded, one channel in and two classes out, 572x572 pixels in and 388x388 out as
#   in Ronneberger et al. 2015, Fig. 1: the paper's network, and so its 31,030,658 parameters.
# Seen (2026-11-28): the sizes are the paper's, the parameters are 36,950,338, a fifth more. Its up-convolutions keep the
#   channels that the paper's halve ("a 2x2 convolution that halves the number of feature channels"), and so each
#   convolution behind a connection reads half as many channels again. Written layer by layer with those widths, torch's
#   own layers have that number to the last one; with the paper's, 31,030,658.
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2 unet==0.8.1
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from unet import UNet2D

WIDTHS = [64, 128, 256, 512, 1024]


def count(net):
    return sum(p.numel() for p in net.parameters())


def written(kept):
    """The layers of Fig. 1; `kept`: how many of its channels an up-convolution keeps."""
    layers = []
    for before, width in zip([1, *WIDTHS], WIDTHS):
        layers += [nn.Conv2d(before, width, 3), nn.Conv2d(width, width, 3)]
    for width, below in zip(WIDTHS, WIDTHS[1:]):
        up = int(kept * below)
        layers += [nn.ConvTranspose2d(below, up, 2, 2), nn.Conv2d(up + width, width, 3), nn.Conv2d(width, width, 3)]
    return nn.ModuleList([*layers, nn.Conv2d(64, 2, 1)])


with torch.device("meta"):
    net, paper, wide = UNet2D(), written(0.5), written(1)
seen = tuple(net(torch.empty(1, 1, 572, 572, device="meta")).shape)
print(f"572x572 -> {seen}; parameters: {count(net):,}; the paper's: {count(paper):,}; channels kept: {count(wide):,}")
assert seen == (1, 2, 388, 388)
assert count(paper) == 31_030_658
assert count(net) == count(wide) == 36_950_338
PYTHON
