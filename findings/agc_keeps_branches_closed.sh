#!/bin/sh
# timm 1.0.31 with torch 2.14.1: adaptive gradient clipping keeps shut the branches of the networks it is made for.
# Guess: clipping each gradient to a hundredth of its weight's length (Brock et al. 2021, eq. 3; eps 0.001) cuts the
#   spikes of a norm-free network and leaves its training otherwise as it is, the branches' too.
# Seen (2026-11-30; test_nfnet, timm's smallest, 300 iterations of 64 scikit-learn digits, SGD at a rate of 0.1):
#   the gains that open the branches start at zero, and a gradient beside zero may be no longer than a hundredth of eps.
#   After 300 iterations they are at 0.0002, and the loss is the same to four digits with every branch taken out. What
#   was trained is the shortcuts. With the gains left out of the clipping they are at 0.07 to 0.09; the branches count.
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 torchvision==0.29.1 timm==1.0.31 scikit-learn==1.8.0 numpy==2.4.2
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import timm
import torch
from sklearn.datasets import load_digits
from timm.utils.agc import adaptive_clip_grad
from torch import nn

images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = nn.functional.interpolate((images.float().view(-1, 1, 8, 8) - 4.9) / 6, scale_factor=4).repeat(1, 3, 1, 1)


def trained(clip_gains, seed):
    """The mean size of the branches' gains after training, the loss, and the loss without any branch."""
    torch.manual_seed(seed)
    net = timm.create_model("test_nfnet", num_classes=10)
    gains = [module.conv3.gain for module in net.modules() if type(module).__name__ == "NormFreeBlock"]
    assert all((gain == 0).all() for gain in gains)
    left_out = {id(part) for part in [*net.head.parameters(), *([] if clip_gains else gains)]}
    clipped = [part for part in net.parameters() if id(part) not in left_out]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(300):
        chosen = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()
        adaptive_clip_grad(clipped, clip_factor=0.01)
        optimizer.step()
    net.eval()
    with torch.no_grad():
        size = torch.cat([gain.flatten() for gain in gains]).abs().mean().item()
        whole = nn.functional.cross_entropy(net(images), labels).item()
        for gain in gains:
            gain.zero_()
        return size, whole, nn.functional.cross_entropy(net(images), labels).item()


for seed in range(2):
    shut, opened = (trained(clip_gains, seed) for clip_gains in (True, False))
    for name, (size, whole, without) in (("all clipped", shut), ("gains not clipped", opened)):
        print(f"seed {seed}, {name}: gains {size:.2g}, loss {whole:.4f}, without branches {without:.4f}", flush=True)
    assert shut[0] < 0.001 < 0.02 < opened[0]
    assert abs(shut[2] - shut[1]) < 0.01 < abs(opened[2] - opened[1])
print("as described")
PYTHON
