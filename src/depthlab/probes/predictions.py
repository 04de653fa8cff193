"""What a network sees in a few images: the class that it gives each pixel."""

import torch
from torch import Tensor

from depthlab.network.resnet import Network
from depthlab.probes.inside import Values


@torch.no_grad()
def predictions(net: Network, x: Tensor, y: Tensor, rate: float) -> Values:
    """Of the fixed network, in evaluation mode, a list of rows of pixels an image: `said`, the class with the largest
    logit; `truth`, the label; `image`, the mean over the channels, from 0 to 255 between its darkest and its lightest
    pixel. `wrong`: the share of wrong pixels in all of them (%).
    """
    net.eval()
    said, grey = net(x).argmax(1), x.mean(1)
    low, high = (edge(grey, (1, 2), keepdim=True) for edge in (torch.amin, torch.amax))
    pixels = (255 * (grey - low) / (high - low).clamp(min=1e-12)).round().int()
    wrong = 100 * (said != y).double().mean().item()
    return {"image": pixels.tolist(), "truth": y.tolist(), "said": said.tolist(), "wrong": wrong}
