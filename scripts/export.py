"""A run's network for other programs: `python scripts/export.py outputs/digits/RUN --to safetensors`.

safetensors: its tensors by depthlab's names, for `weights=FILE`. torchvision: a state dict for torchvision's resnet
or densenet of that depth, where the run is one. onnx: the whole network in evaluation mode, for any number of images.
"""

import argparse
import warnings
from pathlib import Path

import safetensors.torch
import torch

import depthlab
from depthlab.errors import Mistake, told_in_one_line
from depthlab.machine.files import replacing
from depthlab.network.densenet import to_torchvision as to_torchvisions_densenet
from depthlab.network.resnet import to_torchvision
from depthlab.network.weights import USUAL, USUAL_DENSE

SUFFIXES = {"safetensors": ".safetensors", "torchvision": ".pth", "onnx": ".onnx"}
TORCHVISIONS = (18, 34, 50, 101, 152)
DENSE = (121, 161, 169, 201)


def to_safetensors(run: "depthlab.Loaded", out: Path) -> None:
    """The tensors by our names."""
    state = {name: tensor.contiguous() for name, tensor in run.net.state_dict().items()}
    with replacing(out) as file:
        file.write(safetensors.torch.save(state))


def to_torchvisions(run: "depthlab.Loaded", out: Path) -> None:
    """A state dict that torchvision's network takes. Raises Mistake where the run's network is none of them."""
    config = {"weight": {"name": "plain"}} | run.config  # older runs have no other
    dense = config["network"]["name"] == "densenet"
    usual = USUAL_DENSE if dense else USUAL
    usual = {key: value for key, value in usual.items() if not key.startswith("data.")}
    usual |= {"network.family": "imagenet", "weight.name": "plain"}
    if dense:
        usual |= {"network.growth": 48 if config["depth"] == 161 else 32, "network.compression": 0.5}
    if dense or config["block"] != "bottleneck":
        del usual["network.stride_in"]
    here = {key: config[key.partition(".")[0]].get(key.partition(".")[2]) for key in usual}
    other = [f"{key.removesuffix('.name')}={here[key]}" for key in usual if here[key] != usual[key]]
    other += [f"depth={config['depth']}"] * (config["depth"] not in (DENSE if dense else TORCHVISIONS))
    other += [f"width={config['width']}"] * (config["width"] != 64 and not dense)
    other += ["network.shortcut=" + str(config["network"].get("shortcut"))] * (
        config["network"].get("shortcut") not in (None, "B")
    )
    if other:
        names = "densenet121 to densenet201" if dense else "resnet18 to resnet152"
        raise Mistake(f"--to torchvision: it has ImageNet's {names} alone, not {' '.join(other)}")
    renamed = (to_torchvisions_densenet if dense else to_torchvision)(run.net.state_dict())
    state = {name: tensor.contiguous() for name, tensor in renamed.items()}
    with replacing(out) as file:
        torch.save(state, file)


def to_onnx(run: "depthlab.Loaded", out: Path) -> None:
    """Images (N, C, H, W) -> logits (N, classes), in float32, weights in the file. Raises Mistake where the extra is
    missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise Mistake("--to onnx: needs pip install -e '.[onnx]'") from None
    images = torch.zeros(2, *run.data.shape)
    net = run.net.float()  # onnxruntime has no convolution of doubles
    with warnings.catch_warnings(action="ignore"):  # what the exporter thinks of its own parts
        made = torch.onnx.export(
            net,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            dynamo=True,
            verbose=False,
        )
    if made is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    with replacing(out) as file:
        file.write(made.model_proto.SerializeToString())


WRITERS = {"safetensors": to_safetensors, "torchvision": to_torchvisions, "onnx": to_onnx}


def main() -> None:
    """The command: a person's mistake is told in one line, exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="outputs/NAME/RUN")
    parser.add_argument("--to", choices=WRITERS, required=True)
    file = {"metavar": "FILE", "help": "or a folder; usually network.FORMAT in the run's"}
    parser.add_argument("--out", **file)
    parser.add_argument("--options", metavar="FOLDER", help="the run's options of your own")
    parser.add_argument("--root", metavar="PATH", help="where the run's own images lie now, if they were moved")
    given = parser.parse_args()
    with told_in_one_line():
        run = depthlab.load(given.run, options=given.options, root=given.root)
        out = Path(given.out or given.run).expanduser().resolve()
        if out.is_dir() or str(given.out).endswith("/"):
            out = out / f"network{SUFFIXES[given.to]}"
        if out.exists() and not out.is_file():
            raise Mistake(f"--out {out}: is no ordinary file")
        out.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[given.to](run, out)
        print(f"written: {out}")


if __name__ == "__main__":
    main()
