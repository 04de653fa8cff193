"""Images/s of one core through the ImageNet pipelines, against torchvision's usual one, side by side.

`python scripts/benchmark_images.py OUT.json` generates 500x375 JPEGs, the usual size of an ImageNet file. One thread
decodes, augments and normalises. The pipelines take turns, one batch each a round, so that what else the machine does
slows all alike; seconds are the processor's; figures are medians over the rounds.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from depthlab.data import imagenet
from depthlab.data.images import DEVIATION, MEAN, Folders

WIDTH, HEIGHT = 500, 375


def write(root: Path, images: int) -> None:
    """An ImageFolder of JPEGs with an ImageNet file's size and detail: smooth noise of several scales and some grain,
    quality 90, some 85 kB each.
    """
    noise = np.random.default_rng(0)
    for part in ("train", "val"):
        (root / part / "noise").mkdir(parents=True)
        for number in range(images):
            pixels = noise.normal(0, 6, (HEIGHT, WIDTH, 3))
            for cells in (4, 16, 64):
                coarse = Image.fromarray(noise.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
                pixels += np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 3
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / part / "noise" / f"{number}.jpg", quality=90)


def usual(folder: Path, transform: list[Any], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as PyTorch's and torchvision's ImageNet examples make them: PIL images, floats, normalised."""
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    data = torchvision.datasets.ImageFolder(folder, transforms.Compose([*transform, *end]))
    while True:
        yield from DataLoader(data, batch, shuffle=True, drop_last=True)


def ours(root: Path, augment: Any = "aspect", color: bool = False, crops: Any = 1) -> Folders:
    """Our pipeline, in this process."""
    where, keys = torch.device("cpu"), {"augment": augment, "color": color, "crops": crops}
    return imagenet(where, root=str(root), size=224, workers=0, validation=0, subset=None, **keys)


def tested(data: Folders, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an evaluation, again and again."""
    while True:
        yield from data.evaluate("test", size)


def pipelines(root: Path, batch: int) -> dict[str, Iterator[tuple[Tensor, Tensor]]]:
    """Endless batches of each kind; `usual` are those to compare with."""
    crop = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    centre = [transforms.Resize(256), transforms.CenterCrop(224)]
    return {
        "train, usual": usual(root / "train", crop, batch),
        "train, aspect": ours(root).batches(batch, seed=0),
        "train, aspect, color": ours(root, color=True).batches(batch, seed=0),
        "train, scale": ours(root, "scale").batches(batch, seed=0),
        "train, scale, color": ours(root, "scale", color=True).batches(batch, seed=0),
        "test, usual": usual(root / "val", centre, batch),
        "test, 1 crop": tested(ours(root), batch),
        "test, 10 crops": tested(ours(root, crops=10), 10 * batch),
    }


def measure(root: Path, rounds: int, batch: int) -> dict[str, dict[str, float]]:
    """Of each pipeline: images/s, the median over the rounds, and the median ratio to the usual one of its kind."""
    made = pipelines(root, batch)
    rates: dict[str, list[float]] = {name: [] for name in made}
    for step in range(rounds + 1):
        for name, batches in made.items():
            start = time.process_time()
            _, labels = next(batches)
            if step:  # the first warms up
                rates[name].append(len(labels) / (time.process_time() - start))

    def ratio(name: str) -> float:
        return median(a / b for a, b in zip(rates[name], rates[f"{name.split(',')[0]}, usual"], strict=True))

    return {name: {"images_per_second": median(rates[name]), "to_usual": ratio(name)} for name in made}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16, help="images a turn")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), 4 * given.batch)
        size = median(path.stat().st_size for path in Path(folder).glob("train/*/*"))
        found = measure(Path(folder), given.rounds, given.batch)
    for name, values in found.items():
        print(f"{name:24}{values['images_per_second']:7.0f} images/s{values['to_usual']:7.2f} times the usual")
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": Image.__version__}
    about = {"file_bytes": size, "rounds": given.rounds, "batch": given.batch, "python": platform.python_version()}
    given.out.write_text(json.dumps(about | versions | {"pipelines": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
