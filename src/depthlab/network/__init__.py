"""The networks that `network=` names; called, `depthlab.network("depth=20")`, it is `depthlab.api.network`."""

import sys

from depthlab import Callable
from depthlab.network.densenet import densenet
from depthlab.network.mlp import mlp
from depthlab.network.resnet import resnet

__all__ = ["densenet", "mlp", "resnet"]

sys.modules[__name__].__class__ = Callable
