"""From the words of a command to its config, by Hydra, without a trace in Hydra's global state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from depthlab import config
from depthlab.command.words import meant, readable, several
from depthlab.config import CONFIGS
from depthlab.errors import Mistake, mistake

ONE = "from Python one call is one run: for depth in (8, 20): depthlab.run(f'data=digits depth={depth}')"
"""What is said to who wants several."""


class Composed(NamedTuple):
    """A config, and the chosen option of each group."""

    cfg: DictConfig
    choices: dict[str, str]


def compose(words: Sequence[str]) -> Composed:
    """The config of one run, by the words of the command. Raises Mistake."""
    understood = readable([*words])
    for word in understood:
        if several(word):
            raise Mistake(f"{word}: several runs, and {ONE}")
    with offered(understood), mistakes():
        loader = ConfigLoaderImpl(create_config_search_path(str(CONFIGS)))
        return without_hydra(loader.load_configuration("train", lasting(understood), RunMode.RUN))


def lasting(words: Sequence[str]) -> list[str]:
    """The words, with `epochs=null` where iterations are typed and the data set or experiment brings epochs."""
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    if "recipe.iterations" not in typed or "epochs" in typed:
        return [*words]
    found = [config.texts(group).get(meant(words, group) or "", "") for group in ("data", "experiment")]
    brought = any((config.from_yaml(text) or {}).get("epochs") for text in found)
    return [*words, *["epochs=null"] * brought]


def without_hydra(cfg: DictConfig) -> Composed:
    """What is ours of a composed config, and what Hydra knows of its choices."""
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        cfg.pop("hydra")
    return Composed(cfg, choices)


@contextmanager
def offered(words: Sequence[str], folder: str | None = None) -> Iterator[None]:
    """Inside, Hydra, the help and the errors know a person's own options: the functions in the folder of
    `options=FOLDER` among the words, and the YAML files in that of `--config-dir`, which Hydra itself knows.
    """
    store, added = ConfigStore.instance(), []
    if (own := meant(words, "options")) is not None:
        from depthlab.own import texts  # which runs them, and they load torch

        config.OWN.update(texts(own))
    try:
        if folder:
            config.add(Path(folder))
        for group, options in config.OWN.items():
            for name, text in options.items():
                package = text.split("\n")[0].removeprefix("# @package ")
                store.store(name, OmegaConf.create(text), group, package)
                added.append((group, f"{name}.yaml"))
        yield
    finally:
        for group, file in added:
            del store.repo[group][file]
        config.OWN.clear()
        del config.FOLDERS[1:]


@contextmanager
def mistakes() -> Iterator[None]:
    """Inside, what Hydra and OmegaConf say of a person's mistake is raised as a Mistake, without theirs behind it."""
    try:
        yield
    except Exception as error:
        found = mistake(error, config.keys, config.owners, config.origin)
        if found is None:
            raise
        raise found from None
