"""The same networks as plain `torch.nn.Module`s, as a PyTorch user would write them.

They serve two ends: their numbers must equal those of our workload texts with the same weights, and their time says
what writing a model against our op namespace costs `torch_eager`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from engines.engine import Array, Outputs, Placed, Style, Task, phase, place_arrays, place_batch


class Cnn(nn.Module):
    """The network of `suites/workloads/cnn.py`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout2d(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (batch, 10) of images (batch, 1, 28, 28)."""
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = self.dropout1(nn.functional.max_pool2d(x, 2))
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return torch.log_softmax(self.fc2(self.dropout2(x)), dim=1)


def lenet5() -> nn.Module:
    """The network of `suites/workloads/lenet5.py`."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(256, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, 10),
            log_softmax=nn.LogSoftmax(dim=1),
        )
    )


def mlp() -> nn.Module:
    """The network of `suites/workloads/mlp.py`."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 512),
            relu1=nn.ReLU(),
            dropout1=nn.Dropout(0.2),
            fc2=nn.Linear(512, 512),
            relu2=nn.ReLU(),
            dropout2=nn.Dropout(0.2),
            fc3=nn.Linear(512, 10),
            log_softmax=nn.LogSoftmax(dim=1),
        )
    )


MODULES: Mapping[str, Callable[[], nn.Module]] = {"cnn": Cnn, "lenet5": lenet5, "mlp": mlp}
"""A network by the name of its workload; its parameters bear the names that the workload's bear."""


def load_parameters(module: nn.Module, parameters: Mapping[str, Array]) -> nn.Module:
    """Give a module these parameters."""
    module.load_state_dict({name: torch.tensor(array) for name, array in parameters.items()})
    return module


class ModuleProgram:
    """A training task on a plain module: its own dropout, torch's own generator, loss.backward(), SGD."""

    def __init__(self, name: str, task: Task) -> None:
        self._task = task
        self.phases: dict[str, float] = {}
        with phase(self.phases, "make module"):
            module = MODULES[name]()
        with phase(self.phases, "place"):
            module.load_state_dict(place_arrays(task.parameters, task.device), assign=True)
            self._module = module.to(task.device).train(task.random)
            self.parameters = dict(self._module.named_parameters())
        self.counters: Mapping[str, int] = {}
        assert task.optimizer is not None
        with phase(self.phases, "make optimizer"):
            self._optimizer = torch.optim.SGD(
                self._module.parameters(), lr=task.optimizer.lr, momentum=task.optimizer.momentum
            )

    def place(self, batch: Mapping[str, Array], key: int) -> Placed:
        """See `Program.place`."""
        return place_batch(self._task, batch, key)

    def run(self, placed: Placed) -> Outputs:
        """See `Program.run`: a training step, or without an update the loss and gradients."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.nll_loss(self._module(placed.batch["image"]), placed.batch["label"])
        loss.backward()  # type: ignore[no-untyped-call]
        if self._task.quantity == "step":
            self._optimizer.step()
            return Outputs(loss.detach(), {})
        return Outputs(loss.detach(), {name: p.grad for name, p in self.parameters.items() if p.grad is not None})


class TorchModule:
    """A plain module as an engine, for the workload of this name."""

    name = "torch_module"
    style: Style = "dynamic"

    def __init__(self, workload: str) -> None:
        self._workload = workload

    def prepare(self, task: Task) -> ModuleProgram:
        """See `Engine.prepare`."""
        return ModuleProgram(self._workload, task)
