"""From the words of a command to its config, by Hydra, without a trace in Hydra's global state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from depthlab import config
from depthlab.command.words import readable
from depthlab.config import CONFIGS
from depthlab.errors import mistake

owners = partial(config.owners, CONFIGS)
OmegaConf.register_new_resolver("options", lambda: config.help_text(CONFIGS), replace=True)


class Composed(NamedTuple):
    """A config, and the chosen option of each group."""

    cfg: DictConfig
    choices: dict[str, str]


def compose(words: Sequence[str]) -> Composed:
    """The config of one run, by the words of the command. Raises Mistake."""
    with mistakes():
        loader = ConfigLoaderImpl(create_config_search_path(str(CONFIGS)))
        cfg = loader.load_configuration("train", readable([*words]), RunMode.RUN)
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        cfg.pop("hydra")
    return Composed(cfg, choices)


@contextmanager
def mistakes() -> Iterator[None]:
    """Inside, what Hydra and OmegaConf say of a person's mistake is raised as a Mistake, without theirs behind it."""
    try:
        yield
    except Exception as error:
        found = mistake(error, config.keys, owners)
        if found is None:
            raise
        raise found from None
