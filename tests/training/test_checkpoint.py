"""The checkpoint: whole or not at all, and never code."""

import hashlib
import pickle
import zipfile

import pytest
import torch
from torch import nn

from conftest import Counted, presets
from depthlab.config import bind
from depthlab.errors import Mistake
from depthlab.training import checkpoint, optimizer
from depthlab.training.loop import State
from depthlab.training.recipe import Recipe, Warmup


def recipe(**changes):
    """SGD's usual constants."""
    values = {"batch": 6, "iterations": 0, "rate": 0.01, "momentum": 0.9, "nesterov": False, "decay": 1e-2}
    values |= {"decay_on": "all", "schedule_on": None, "warmup": Warmup(0.01, 0, 0, 0), "schedule": None}
    return Recipe(**(values | changes))


def state(seed, width=3):
    """A small network with momentum, in the middle of a run."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    return State(net, optimizer, seed, seed % 2 == 0, torch.tensor([1.0, 2.0, 3.0, -1.0], dtype=torch.float64) * seed)


def values(state):
    """All of it as one flat list."""
    parts = [*state.net.state_dict().values(), *(s["momentum_buffer"] for s in state.optimizer.state.values())]
    return [part.tolist() for part in parts] + [state.step, state.warm, state.window.tolist()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def test_all_comes_back_with_the_random_stream(path):
    old, new = state(1), state(2)
    wanted = values(old)
    torch.manual_seed(11)
    torch.rand(3)
    checkpoint.save(path, old, digest="abc", clock={"seconds": 1.5})
    drawn = torch.rand(5)
    assert values(new) != wanted
    more = checkpoint.load(path, new, digest="abc")
    assert torch.equal(torch.rand(5), drawn)
    assert values(new) == wanted
    assert (more["digest"], more["clock"]) == ("abc", {"seconds": 1.5})


def test_it_loads_as_weights_only_and_is_alone_in_its_folder(path):
    checkpoint.save(path, state(1), digest="abc")
    assert torch.load(path, weights_only=True)["step"] == 1
    assert [*path.parent.iterdir()] == [path]


def test_saving_again_replaces_it(path):
    for seed in (1, 2):
        checkpoint.save(path, state(seed))
    new = state(3)
    checkpoint.load(path, new)
    assert values(new) == values(state(2))


def test_its_seal_is_the_comment_of_a_sound_zip_file(path):
    checkpoint.save(path, state(1))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.comment.decode() == hashlib.sha256(content[:-64]).hexdigest()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_a_flipped_bit_is_found_before_anything_is_put_back(path, share):
    checkpoint.save(path, state(1))
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 4
    path.write_bytes(content)
    new = state(2)
    before, random = values(new), torch.get_rng_state()
    with pytest.raises(checkpoint.Damaged, match=r"damaged \(its content is not what was written\)"):
        checkpoint.load(path, new)
    assert values(new) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_the_one_before_is_kept_and_takes_the_place_of_a_damaged_one(path):
    previous = path.with_name("previous.pt")
    for seed in (1, 2):
        checkpoint.save(path, state(seed), keep=previous)
    path.write_bytes(b"damaged")
    new = state(3)
    assert checkpoint.resume(path, previous, new)["step"] == 1
    assert values(new) == values(state(1))
    assert [*path.parent.iterdir()] == [path]
    checkpoint.save(path, state(4), keep=previous)
    assert torch.load(previous, weights_only=True)["step"] == 1  # the sound one, not the damaged


def test_of_two_sound_ones_the_newest_goes_on(path):
    previous = path.with_name("previous.pt")
    for seed in (1, 2):
        checkpoint.save(path, state(seed), keep=previous)
    assert checkpoint.resume(path, previous, state(3))["step"] == 2
    assert previous.exists()


def test_without_a_checkpoint_nothing_is_resumed(path):
    assert checkpoint.resume(path, path.with_name("previous.pt"), state(1)) is None


def test_one_of_another_config_does_not_give_way(path):
    previous = path.with_name("previous.pt")
    for seed, digest in ((1, "abc"), (2, "abd")):
        checkpoint.save(path, state(seed), keep=previous, digest=digest)
    with pytest.raises(Mistake, match="of another config"):
        checkpoint.resume(path, previous, state(3), digest="abc")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_in_the_middle_leaves_the_old_file_and_nothing_else(path, monkeypatch, error):
    checkpoint.save(path, state(1))
    before = path.read_bytes()

    def half(saved, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(error)):
        checkpoint.save(path, state(2))
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_an_object_in_a_file_is_not_made(path, write):
    Counted.made = 0
    write({"net": Counted()}, path)
    with pytest.raises(Mistake, match=r"checkpoint\.pt: damaged"):
        checkpoint.load(path, state(1))
    assert Counted.made == 1  # by the line that wrote it


OTHER = {
    "one value": torch.ones(1),
    "more values": torch.ones(4, 4),
    "no tensor": "momentum",
    "without memory": torch.empty(3, 4, device="meta"),
}


@pytest.mark.parametrize("momentum", OTHER.values(), ids=OTHER.keys())
def test_a_momentum_of_another_kind_is_refused(path, momentum):
    old, new = state(1), state(2)
    old.optimizer.state[old.net[0].weight]["momentum_buffer"] = momentum
    checkpoint.save(path, old)
    with pytest.raises(Mistake, match="damaged"):
        checkpoint.load(path, new)


def test_what_is_read_lies_in_memory_of_our_own(path, monkeypatch):
    """Whatever the layout of the file's tensors, and whatever it says of how to load them."""
    old, new = state(1), state(2)
    old.optimizer.state[old.net[0].weight]["momentum_buffer"] = torch.arange(12.0).view(4, 3).t()
    checkpoint.save(path, old)
    before, given = new.net[0].weight.data_ptr(), []
    load = new.net.load_state_dict
    monkeypatch.setattr(new.net, "load_state_dict", lambda saved: given.append(saved) or load(saved))
    checkpoint.load(path, new)
    momentum = new.optimizer.state[new.net[0].weight]["momentum_buffer"]
    assert (momentum.shape, momentum.stride(), momentum.untyped_storage().nbytes()) == ((3, 4), (4, 1), 48)
    assert momentum.tolist() == torch.arange(12.0).view(4, 3).t().tolist()
    assert new.net[0].weight.data_ptr() == before
    assert not hasattr(given[0], "_metadata")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_one_line(path, share):
    checkpoint.save(path, state(1))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Mistake) as mistake:
        checkpoint.load(path, state(2))
    assert str(mistake.value).startswith(f"{path}: damaged (")
    assert str(mistake.value).endswith("delete it to start this run anew")
    assert "\n" not in str(mistake.value)


def test_what_is_expected_must_be_there_before_anything_is_put_back(path):
    checkpoint.save(path, state(1), digest="abc")
    new = state(2)
    before, random = values(new), torch.get_rng_state()
    with pytest.raises(Mistake, match="of another config"):
        checkpoint.load(path, new, digest="abd")
    with pytest.raises(Mistake, match="damaged"):
        checkpoint.load(path, new, digset="abc")
    assert values(new) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_a_checkpoint_of_another_network_is_one_line(path):
    checkpoint.save(path, state(1, width=2))
    with pytest.raises(Mistake) as mistake:
        checkpoint.load(path, state(1))
    assert "damaged" in str(mistake.value)
    assert "\n" not in str(mistake.value)


# optimisers whose states have other forms


def optimised(seed, name):
    """A network of convolutions, a norm and a linear map, some steps into its training by an optimiser."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
    net = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    node = presets("recipe/optimizer")[name]
    made = bind(optimizer, node.get("optimizer", node), "recipe.optimizer")(net, recipe())
    for _ in range(seed + 2):
        logits = net(torch.randn(6, 2, 5, 5))
        getattr(made, "look", lambda said: None)([logits])
        made.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(6) % 3).backward()
        made.step()
    return State(net, made, seed)


def tensors(value):
    """All of an optimiser's tensors, with where they stand."""
    if isinstance(value, torch.Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from tensors(part)


@pytest.mark.parametrize("name", presets("recipe/optimizer"))
def test_each_optimisers_state_comes_back_into_memory_of_our_own(path, name):
    old, new = optimised(1, name), optimised(0, name)
    checkpoint.save(path, old)
    checkpoint.load(path, new)
    ours, theirs = ([*tensors(dict(s.optimizer.state))] for s in (new, old))
    assert [t.tolist() for t in ours] == [t.tolist() for t in theirs] != []
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in ours)
    assert new.optimizer.state_dict()["param_groups"] == old.optimizer.state_dict()["param_groups"]


@pytest.mark.parametrize("change", [lambda t: t.flatten()[:1], lambda t: torch.zeros(*t.shape, 2), lambda t: "no"])
@pytest.mark.parametrize("name", presets("recipe/optimizer"))
def test_a_state_of_another_form_is_refused(path, name, change):
    old, new = optimised(1, name), optimised(0, name)
    weight = old.net[0].weight
    key = next(k for k, t in old.optimizer.state[weight].items() if isinstance(t, torch.Tensor) and t.numel() > 1)
    old.optimizer.state[weight][key] = change(old.optimizer.state[weight][key])
    checkpoint.save(path, old)
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(path, new)


@pytest.mark.parametrize(("name", "other"), [("sgd", "adamw"), ("adamw", "kfac"), ("soap", "sgd"), ("kfac", "muon")])
def test_a_state_of_another_optimiser_is_refused(path, name, other):
    checkpoint.save(path, optimised(1, name))
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(path, optimised(0, other))
