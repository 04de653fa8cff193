"""Activations: the non-linearity between the layers."""

from torch import nn


def relu() -> nn.Module:
    """max(x, 0), the papers' own."""
    return nn.ReLU()


def tanh() -> nn.Module:
    """tanh(x) (Glorot & Bengio 2010)."""
    return nn.Tanh()


def sigmoid() -> nn.Module:
    """1 / (1 + exp(-x)) (Ioffe & Szegedy 2015, section 4.2.2)."""
    return nn.Sigmoid()


def identity() -> nn.Module:
    """x: a linear network."""
    return nn.Identity()
