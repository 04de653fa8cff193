"""The networks that `network=` names; called, `depthlab.network("depth=20")`, it is `depthlab.api.network`."""

import sys

from depthlab import Callable
from depthlab.network.densenet import densenet
from depthlab.network.hourglass import hourglass
from depthlab.network.mlp import mlp
from depthlab.network.resnet import resnet
from depthlab.network.unet import unet

__all__ = ["densenet", "hourglass", "mlp", "resnet", "unet"]

sys.modules[__name__].__class__ = Callable
