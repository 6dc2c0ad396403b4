"""The audio network trains like PyTorch's, including on a smaller last batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.single_modality import AudioNet
from avjax.models.variables import init_variables
from avjax.training.optimizer import sgd
from avjax.training.step import StepConfig, create_state, train_step
from avjax.weights.key_maps import audio_cnn_layers
from avjax.weights.rules import to_torch

BATCH, SIZES = 8, (8, 8, 5)
CHANNELS = (10, 64, 128, 256, 128)
RECIPE = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1e-3}


def peer_network(torch):
    """Returns four blocks and a classifier with the reference's names."""

    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for i in range(4):
                block = torch.nn.Sequential(
                    torch.nn.Conv1d(CHANNELS[i], CHANNELS[i + 1], 3),
                    torch.nn.BatchNorm1d(CHANNELS[i + 1]),
                    torch.nn.ReLU(),
                    torch.nn.MaxPool1d(2, 1),
                )
                setattr(self, f"conv1d_{i}", block)
            self.classifier_1 = torch.nn.Sequential(torch.nn.Linear(CHANNELS[-1], 8))

        def forward(self, x):
            for i in range(4):
                x = getattr(self, f"conv1d_{i}")(x)
            return self.classifier_1(x.mean(-1))

    return Peer().double()


def state_dict_of(variables):
    """Returns a state_dict of the variables without batch counters."""
    branch = {name: tree["audio_model"] for name, tree in variables.items()}
    return {k: v for k, v in to_torch(branch, audio_cnn_layers()).items() if "num_" not in k}


@pytest.mark.torch
def test_training_steps_equal_those_of_pytorch(torch):
    rng = np.random.default_rng(0)
    batches = [(9 * rng.normal(size=(n, 20, 10)), rng.integers(0, 8, n)) for n in SIZES]
    with jax.enable_x64(True):
        net = AudioNet(8)
        fresh = init_variables(net, jax.random.key(0))
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), fresh)
        peer = peer_network(torch)
        weights = {k: torch.from_numpy(v.copy()) for k, v in state_dict_of(variables).items()}
        assert not peer.load_state_dict(weights, strict=False).unexpected_keys
        torch_optimizer = torch.optim.SGD(peer.parameters(), lr=0.04, **RECIPE)
        trained = net.trained(variables["params"])
        optimizer = sgd(0.04, trained=trained, **RECIPE)
        step = jax.jit(
            functools.partial(
                train_step,
                net=net,
                optimizer=optimizer,
                config=StepConfig("nodropout"),
                profile="reference",
            )
        )
        state = create_state(variables, optimizer)
        for mfcc, labels in batches:
            state, sums = step(state, padded(mfcc, labels), jax.random.key(1))
            torch_optimizer.zero_grad()
            logits = peer(torch.from_numpy(mfcc.transpose(0, 2, 1)))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
            loss.backward()
            torch_optimizer.step()
            np.testing.assert_allclose(sums.loss / sums.count, loss.item(), rtol=1e-9)
        expected = {k: v.numpy() for k, v in peer.state_dict().items() if "num_" not in k}
        actual = state_dict_of(state.variables)
        assert actual.keys() == expected.keys()
        for name, value in actual.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-7, atol=1e-10, err_msg=name)


def padded(mfcc, labels):
    """Returns a batch of `BATCH` rows; padding rows have weight 0."""
    missing = BATCH - len(labels)
    return {
        "audio": np.pad(mfcc, ((0, missing), (0, 0), (0, 0))),
        "frames": np.zeros((BATCH, 0, 64, 64, 3), np.uint8),
        "label": np.pad(labels, (0, missing)),
        "has_audio": np.ones(BATCH, bool),
        "has_video": np.ones(BATCH, bool),
        "weight": np.pad(np.ones(len(labels)), (0, missing)),
    }
