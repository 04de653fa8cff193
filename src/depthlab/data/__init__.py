"""Data sets, held whole on the device where they fit. An option of the group `data` names one of these functions."""

from depthlab.data.cifar import cifar10, cifar100
from depthlab.data.folder import content as content
from depthlab.data.folder import folder
from depthlab.data.handwritten import digits
from depthlab.data.images import imagenet
from depthlab.data.line import line
from depthlab.data.masks import masks
from depthlab.data.micrograph import nuclei
from depthlab.data.patterns import synthetic
from depthlab.data.scenes import scenes
from depthlab.data.signals import mnist1d

__all__ = [
    "cifar10",
    "cifar100",
    "digits",
    "folder",
    "imagenet",
    "line",
    "masks",
    "mnist1d",
    "nuclei",
    "scenes",
    "synthetic",
]
