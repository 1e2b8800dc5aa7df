"""LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998), in its usual modern dress.

28x28 input without padding, max-pooling and relu instead of subsampling and tanh: 44,426 parameters. SGD with learning
rate 0.001 and momentum 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.op import Namespace
from engines.optim import Sgd
from suites.workloads.workload import Arrays, Rng, Workload, conv_parameters, dense_parameters, digit_batch


def init(rng: Rng) -> Arrays:
    """Parameters named as in a torch.nn.Module of the same layers."""
    return {
        **conv_parameters(rng, "conv1", 1, 6, 5),
        **conv_parameters(rng, "conv2", 6, 16, 5),
        **dense_parameters(rng, "fc1", 256, 120),
        **dense_parameters(rng, "fc2", 120, 84),
        **dense_parameters(rng, "fc3", 84, 10),
    }


def predict(ops: Namespace, params: Mapping[str, Any], image: Any, key: Any) -> Any:
    """Logits (batch, 10) of images (batch, 1, 28, 28); there is no dropout, so the key is not used."""
    del key
    x = ops.relu(ops.conv2d(image, params["conv1.weight"], params["conv1.bias"]))
    x = ops.max_pool2d(x, kernel_size=2)
    x = ops.relu(ops.conv2d(x, params["conv2.weight"], params["conv2.bias"]))
    x = ops.max_pool2d(x, kernel_size=2)
    x = ops.flatten(x, start_dim=1)
    x = ops.relu(ops.linear(x, params["fc1.weight"], params["fc1.bias"]))
    x = ops.relu(ops.linear(x, params["fc2.weight"], params["fc2.bias"]))
    return ops.linear(x, params["fc3.weight"], params["fc3.bias"])


def loss(ops: Namespace, params: Mapping[str, Any], batch: Mapping[str, Any], key: Any) -> Any:
    """Mean cross-entropy against the labels (batch,)."""
    return ops.cross_entropy(predict(ops, params, batch["image"], key), batch["label"])


WORKLOAD = Workload("lenet5", init, digit_batch, loss, Sgd(lr=0.001, momentum=0.9), predict=predict)
