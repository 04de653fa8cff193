"""The networks that `network=` names."""

from depthlab.network.mlp import mlp
from depthlab.network.resnet import resnet

__all__ = ["mlp", "resnet"]
