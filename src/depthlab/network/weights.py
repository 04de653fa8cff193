"""Weights from elsewhere: a file of tensors, by our names or by other code's, for one of our networks."""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import safetensors.torch
import torch
from torch import Tensor, nn

from depthlab.errors import Mistake
from depthlab.network.densenet import from_torchvision as from_torchvisions_densenet
from depthlab.network.densenet import to_torchvision as to_torchvisions_densenet
from depthlab.network.resnet import Network, ZeroPad, from_torchvision, to_torchvision
from depthlab.network.unit import Unit

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Under which name training scripts, and our checkpoints, keep a network's tensors."""
NAMINGS = {
    "depthlab": "depthlab's names",
    "torchvision": "torchvision's names (layer1, fc)",
    "cifar": "the names of PyTorch's CIFAR ResNets (layer1, linear)",
    "densenet": "torchvision's names of a DenseNet (features, classifier)",
}
MAPPED = {"torchvision": from_torchvision, "cifar": from_torchvision, "densenet": from_torchvisions_densenet}
"""What gives tensors of a foreign naming our names."""
BACK = {"torchvision": to_torchvision, "cifar": to_torchvision, "densenet": to_torchvisions_densenet}
"""The inverse, but for the word for the head, and for a shortcut."""
USUAL = {"skip.name": "identity", "unit.name": "original", "norm.name": "batch", "activation.name": "relu"}
USUAL |= {"data.normalize": "imagenet", "network.stride_in": "3x3"}
"""What the networks of foreign namings are made of and were trained with, by our words."""
USUAL_DENSE = USUAL | {"skip.name": "concat", "unit.name": "preact"}
"""The same of DenseNets."""


@dataclass(frozen=True)
class Start:
    """Tensors that fit a network, in memory of our own; `naming`: whose names they had; `new_head`: the head is not
    among them, as the file's is for another number of classes.
    """

    state: dict[str, Tensor]
    naming: str
    new_head: bool

    def fill(self, net: nn.Module) -> None:
        """Puts them into the network."""
        net.load_state_dict(self.state, strict=False)

    def unusual(self, config: Mapping[str, Any]) -> list[str]:
        """What a config has otherwise than most networks by the file's names; as theirs is typed."""
        if self.naming == "depthlab":
            return []
        usual = USUAL_DENSE if self.naming == "densenet" else USUAL
        here = {key: config[key.partition(".")[0]].get(key.partition(".")[2]) for key in usual}
        if config["block"] != "bottleneck":
            here["network.stride_in"] = None  # of no effect
        other = [key for key, value in here.items() if value not in (None, usual[key])]
        return [f"{key.removesuffix('.name')}={usual[key]}" for key in other]


def given(value: Any) -> dict[str, str] | None:
    """`weights=FILE`, or what a config.yaml holds of it, as the file's path and the SHA-256 of its content, which
    decides the result. Raises Mistake where there is no such file.
    """
    if value is None:
        return None
    said = {"file": str(value)} if isinstance(value, str | int | float) else value
    keys = said.keys() if isinstance(said, dict) and all(isinstance(word, str) for word in said.values()) else set()
    if not {"file"} <= keys <= {"file", "sha256"}:
        raise Mistake("weights: a file, or options of the run whose weights are meant: weights={depth:20}")
    path = Path(said["file"]).expanduser().absolute()
    return {"file": str(path), "sha256": said.get("sha256") or _sha256(_content(path))}


def read(file: str, sha256: str) -> dict[str, Tensor]:
    """The tensors in a file by name: safetensors, or what torch.save wrote, a state dict or one inside a checkpoint;
    without a first word that all names share, as wrappers put it before them (`module.`). Runs no code from the file.

    Raises Mistake where that is not possible, or where the content has another SHA-256.
    """
    content = _content(Path(file))
    if _sha256(content) != sha256:
        raise Mistake(f"weights={file}: not the content that was there before, of SHA-256 {sha256}")
    try:
        if content[8:9] == b"{":
            found: Any = safetensors.torch.load(content)
        else:
            with catch_warnings(action="ignore"):  # what it thinks of a file from elsewhere
                found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # both raise anything on a damaged file
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"{code[1]} could run code; save the state dict alone" if code else "damaged, or another format"
        raise Mistake(f"weights={file}: neither safetensors nor a state dict of torch ({reason})") from None
    while isinstance(found, dict) and (inside := [found[w] for w in WRAPPERS if isinstance(found.get(w), dict)]):
        found = inside[0]
    named = found if isinstance(found, dict) else {}
    state = {str(name): tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}
    while len({name.partition(".")[0] for name in state}) == 1 < len(state):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    if not state:
        raise Mistake(f"weights={file}: it holds no tensors by name")
    for name, tensor in state.items():
        if not _ordinary(tensor):
            raise Mistake(f"weights={file}: {name} is not an ordinary tensor")
    return state


def fit(state: dict[str, Tensor], net: Network, file: str) -> Start:
    """The tensors under our names, for `net`, which may be without memory (device meta). A head for another number of
    classes is left out. Raises Mistake, which says what names or shapes do not fit.
    """
    naming = _naming(state)
    if naming is None:
        raise Mistake(f"weights={file}: {_some(state)}: neither {', nor '.join(NAMINGS.values())}")
    theirs = {}
    if naming != "depthlab":
        theirs = {ours: name for name in state for ours in MAPPED[naming]({name: state[name]})}
        state = MAPPED[naming](state)
    wanted = net.state_dict()
    new_head = "head.weight" in state and _shape(state, "head.weight")[1:] == _shape(wanted, "head.weight")[1:]
    new_head = new_head and _shape(state, "head.weight") != _shape(wanted, "head.weight")
    heads = {"head.weight", "head.bias"} if new_head else set()
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in wanted]
    both = [n for n in wanted if n in state and n not in heads]
    wrong = [n for n in both if _shape(state, n) != _shape(wanted, n)]
    if missing or unknown or wrong:
        sizes = [f"{theirs.get(n, n)} is {_shape(state, n)} and here {_shape(wanted, n)}" for n in wrong]
        lacking, more = _theirs(missing, naming), [theirs.get(n, n) for n in unknown]
        words = {"it lacks ": lacking, "it has also ": more, "": sizes}
        told = "; ".join(word + _some(names) for word, names in words.items() if names)
        raise Mistake(f"weights={file}: {NAMINGS[naming]}{_kind(state)}, does not fit this network: {told}")
    own = {n: torch.empty(wanted[n].shape, dtype=wanted[n].dtype).copy_(state[n].detach()) for n in both}
    return Start(_padded_at_the_end(own, net) if naming == "cifar" else own, naming, new_head)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise Mistake(f"weights={path}: {getattr(error, 'strerror', 'not the name of a file')}") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _ordinary(tensor: Tensor) -> bool:
    """Whether a tensor is a plain array that lies in its memory; a crafted file's can claim to be longer."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    last = int(tensor.storage_offset()) + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.device.type == "cpu" and (last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _naming(state: dict[str, Tensor]) -> str | None:
    if any(name.startswith("stages.") for name in state):
        return "depthlab"
    heads = {"fc.weight": "torchvision", "linear.weight": "cifar"}
    foreign = [naming for head, naming in heads.items() if head in state and "layer1.0.conv1.weight" in state]
    foreign += ["densenet"] * ("features.conv0.weight" in state and "classifier.weight" in state)
    return foreign[0] if foreign else None


def _kind(state: dict[str, Tensor]) -> str:
    """Depth and width of the network that the tensors, under our names, are of; as typed."""
    stem = [tensor for name, tensor in state.items() if re.fullmatch(r"stem\.(1\.)?conv1\.weight", name)]
    depth = 2 + sum(bool(re.search(r"\.branch\.conv\d+\.weight$", name)) for name in state)
    return f" of depth={depth} width={len(stem[0])}" if stem and stem[0].dim() else ""


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(state[name].shape)


def _theirs(names: list[str], naming: str) -> list[str]:
    """Our names as the file would have them; ours where these networks have none."""
    if naming == "depthlab":
        return names
    found = []
    for name in names:
        (theirs,) = BACK[naming]({name: torch.empty(0)})
        (ours,) = MAPPED[naming]({theirs: torch.empty(0)})
        theirs = re.sub(r"^fc\.", "linear.", theirs) if naming == "cifar" else theirs
        found.append(theirs if ours == name and "before" not in theirs else name)
    return found


def _some(words: Iterable[str]) -> str:
    """The first three of the words, and how many more there are."""
    first, more = list(words)[:3], len(list(words)) - 3
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _padded_at_the_end(state: dict[str, Tensor], net: Network) -> dict[str, Tensor]:
    """The same function with its channels in our order: option A of those who name the head `linear` pads half of the
    zeros before x and half behind it, ours all behind. `order[i]` is the place there of our channel i.
    """
    if not any(isinstance(unit.shortcut, ZeroPad) for unit in net.units):
        return state
    state, order = dict(state), torch.arange(len(state["stem.conv1.weight"]))
    for place, unit in net.stages.named_modules():
        if not isinstance(unit, Unit):
            continue
        branch, layers = f"stages.{place}.branch", sum(isinstance(layer, nn.Conv2d) for layer in unit.branch)
        state[f"{branch}.conv1.weight"] = state[f"{branch}.conv1.weight"][:, order]
        if isinstance(unit.shortcut, ZeroPad):
            missing = unit.shortcut.missing
            inside, places = order + missing // 2, torch.arange(len(order) + missing)
            order = torch.cat([inside, places[~torch.isin(places, inside)]])
        for name, tensor in state.items():
            if name.startswith((f"{branch}.conv{layers}.", f"{branch}.norm{layers}.")) and tensor.dim():
                state[name] = tensor[order]
    if "head.weight" in state:
        state["head.weight"] = state["head.weight"][:, order]
    return state
