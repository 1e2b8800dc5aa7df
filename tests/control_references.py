"""The control-flow workloads a third time, as one would write them in plain PyTorch: row by row, by their definitions.

    loss = REFERENCES["tree_lstm"](params, batch)         # mappings of torch tensors; differentiate with autograd

Nothing here is shared with `suites/workloads`, and nothing is batched that need not be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Tensors = Mapping[str, torch.Tensor]


def affine(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def torch_lstm(p: Tensors, names: list[str], x: torch.Tensor) -> torch.Tensor:
    """Outputs (steps, rows, hidden) of torch's own LSTM with one layer for each name."""
    hidden = p[f"{names[0]}.bias"].shape[0] // 4
    weights = {}
    for layer, name in enumerate(names):
        weights |= {
            f"weight_ih_l{layer}": p[f"{name}.weight_ih"],
            f"weight_hh_l{layer}": p[f"{name}.weight_hh"],
            f"bias_ih_l{layer}": p[f"{name}.bias"],
            f"bias_hh_l{layer}": torch.zeros_like(p[f"{name}.bias"]),
        }
    module = nn.LSTM(x.shape[-1], hidden, len(names), dtype=x.dtype)
    return torch.func.functional_call(module, weights, (x,))[0]


def torch_cell(p: Tensors, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """Torch's own LSTM cell."""
    bias = p["cell.bias"]
    weights = {"weight_ih": p["cell.weight_ih"], "weight_hh": p["cell.weight_hh"], "bias_ih": bias}
    module = nn.LSTMCell(x.shape[-1], bias.shape[0] // 4, dtype=x.dtype)
    return torch.func.functional_call(module, {**weights, "bias_hh": torch.zeros_like(bias)}, (x, state))


def early_exit(p: Tensors, batch: Tensors) -> torch.Tensor:
    def conv(name: str, x: torch.Tensor, padding: int) -> torch.Tensor:
        return F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=padding)

    def pool(x: torch.Tensor, size: int) -> torch.Tensor:
        """Rounds sizes up, by a border on the left and on the right."""
        x = F.max_pool2d(x, 2) if x.shape[-1] == 2 * size else F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 2)
        assert x.shape[-1] == size
        return F.relu(x)

    total = torch.zeros(())
    for image, label, threshold in zip(batch["image"], batch["label"], batch["threshold"], strict=True):
        stem = conv("stem", image[None], 3)
        side = pool(conv("exit.conv", pool(stem, 15), 1), 8)
        logits = affine(p, "exit.out", side.reshape(1, -1))
        total = total + F.cross_entropy(logits, label[None])
        if torch.distributions.Categorical(logits=logits).entropy() < threshold:
            continue
        x = pool(conv("conv2", pool(conv("conv1", pool(stem, 15), 3), 9), 3), 6)
        total = total + F.cross_entropy(affine(p, "out", affine(p, "hidden", x.reshape(1, -1))), label[None])
    return total / len(batch["label"])


def many_paths(p: Tensors, batch: Tensors) -> torch.Tensor:
    x = batch["x"]
    for index, taken in enumerate(batch["path"]):
        if taken:
            x = x + affine(p, f"layer{index}", x).tanh()
        elif f"other{index}.weight" in p:
            x = x + affine(p, f"other{index}", x).tanh()
    return F.mse_loss(affine(p, "out", x), batch["target"])


def block_drop(p: Tensors, batch: Tensors) -> torch.Tensor:
    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        x = F.conv2d(x, p[f"{name}.weight"], stride=stride, padding=1)
        return F.batch_norm(x, None, None, p[f"{name}.scale"], p[f"{name}.shift"], training=True)

    x = conv("stem", batch["image"]).relu()
    for number, gate in enumerate(batch["gate"]):
        name = f"block{number}"
        same = x
        if p[f"{name}.first.scale"].shape[0] != x.shape[1]:
            same = F.avg_pool2d(x, 2)
            same = torch.cat([same, torch.zeros_like(same)], 1)
        if any(gate):
            inner = conv(f"{name}.second", conv(f"{name}.first", x, 1 if same is x else 2).relu())
            same = torch.stack([s + i if g else s for s, i, g in zip(same, inner, gate, strict=True)])
        x = same.relu()
    return F.cross_entropy(affine(p, "out", x.mean((2, 3))), batch["label"])


def moe(p: Tensors, batch: Tensors) -> torch.Tensor:
    total = torch.zeros(())
    for x, noise, target in zip(batch["x"], batch["noise"], batch["target"], strict=True):
        likes = p["router"] @ x + noise
        first, second = sorted(range(len(noise)), key=lambda e: -float(likes[e].detach()))[:2]
        weight = torch.sigmoid(likes[first] - likes[second])
        said = [(x @ p["up"][e]).relu() @ p["down"][e] for e in (first, second)]
        total = total + F.mse_loss(weight * said[0] + (1 - weight) * said[1], target)
    return total / len(batch["x"])


def dynamic_rnn(p: Tensors, batch: Tensors) -> torch.Tensor:
    total = torch.zeros(())
    for index, (length,) in enumerate(batch["length"].tolist()):
        h = torch.zeros_like(batch["target"][index])
        for x in batch["x"][:length, index]:
            h = torch.tanh(p["weight_ih"] @ x + p["weight_hh"] @ h + p["bias"])
        total = total + F.mse_loss(h, batch["target"][index])
    return total / len(batch["target"])


def lstm_stack(p: Tensors, batch: Tensors) -> torch.Tensor:
    names = [f"layer{layer}" for layer in range(len(p) // 3)]
    return F.mse_loss(torch_lstm(p, names, batch["x"])[-1], batch["target"])


def rnn_lm(p: Tensors, batch: Tensors) -> torch.Tensor:
    total = torch.zeros(())
    for index, length in enumerate(batch["length"].tolist()):
        word = batch["word"][: length + 1, index]
        outputs = torch_lstm(p, ["cell"], p["embedding"][word[:-1]])
        total = total + F.cross_entropy(affine(p, "out", outputs), word[1:], reduction="sum")
    return total / batch["length"].sum()


def pushed(logits: torch.Tensor, due: bool) -> torch.Tensor:
    """The end of sentence is word 0."""
    return torch.cat([logits[:1] + (20.0 if due else -20.0), logits[1:]])


def seq2seq(p: Tensors, batch: Tensors) -> torch.Tensor:
    total = torch.zeros((), dtype=batch["state"].dtype) + 0 * sum(v.sum() for v in p.values())
    for index, length in enumerate(batch["length"].tolist()):
        state = batch["state"][index], torch.zeros_like(batch["state"][index])
        word = 1
        for t in range(min(length, len(batch["target"]))):
            state = torch_cell(p, p["embedding"][word], state)
            logits = pushed(affine(p, "out", state[0]), t + 1 == length)
            total = total + F.cross_entropy(logits, batch["target"][t, index])
            word = int(logits.argmax())
            if word == 0:
                break
    return total / max(int(batch["length"].sum()), 1)


def beam_search(p: Tensors, batch: Tensors) -> torch.Tensor:
    found = []
    for h, length in zip(batch["state"], batch["length"].tolist(), strict=True):
        beam = [([1], (h, torch.zeros_like(h)), torch.zeros((), dtype=h.dtype))]
        while any(words[-1] != 0 for words, _, _ in beam):
            candidates = []
            for words, state, score in beam:
                if words[-1] == 0:
                    candidates.append((words, state, score))
                    continue
                new = torch_cell(p, p["embedding"][words[-1]], state)
                chances = pushed(affine(p, "out", new[0]), len(words) >= length).log_softmax(0)
                candidates += [([*words, word], new, score + chance) for word, chance in enumerate(chances)]
            beam = sorted(candidates, key=lambda candidate: -float(candidate[2].detach()))[: batch["score"].shape[1]]
        found += [score for _, _, score in beam]
    return -torch.stack(found).mean()


def tree_lstm(p: Tensors, batch: Tensors) -> torch.Tensor:
    left, right, label = batch["left"].tolist(), batch["right"].tolist(), batch["label"]
    losses = []
    bias_i, bias_o, bias_u = p["bias"].chunk(3)

    def visit(node: int) -> tuple[torch.Tensor, torch.Tensor]:
        if left[node] == right[node]:  # no node has the same child twice
            x = p["embedding"][batch["word"][node]]
            i, o, u = (w @ x for w in p["leaf.weight"].chunk(3))
            c = torch.sigmoid(i + bias_i) * torch.tanh(u + bias_u)
        else:
            (h1, c1), (h2, c2) = visit(left[node]), visit(right[node])
            i, o, u = (w @ torch.cat([h1, h2]) for w in p["node.weight"].chunk(3))
            f1 = torch.sigmoid(p["forget.left"] @ h1 + p["forget.bias"])
            f2 = torch.sigmoid(p["forget.right"] @ h2 + p["forget.bias"])
            c = torch.sigmoid(i + bias_i) * torch.tanh(u + bias_u) + f1 * c1 + f2 * c2
        h = torch.sigmoid(o + bias_o) * torch.tanh(c)
        losses.append(F.cross_entropy(affine(p, "out", h), label[node]))
        return h, c

    for root in batch["root"].tolist():
        visit(root)
    return torch.stack(losses).mean()


def fixed_point(p: Tensors, batch: Tensors) -> torch.Tensor:
    z, residual, trips = F.linear(batch["x"], p["input"], p["bias"]), 1.0, 0
    while residual > batch["epsilon"] and trips < batch["most"]:
        new = torch.tanh(z @ p["weight"].T + batch["x"] @ p["input"].T + p["bias"])
        residual, z, trips = float((new - z).detach().square().mean().sqrt()), new, trips + 1
    return F.mse_loss(z, batch["target"])


def l2hmc(p: Tensors, batch: Tensors) -> torch.Tensor:
    """Equations 5 and 6 of the paper; a backward chain undoes them, last step first."""
    step = p["log_step"].exp()

    def net(name: str, first: Any, second: Any, time: Any) -> Any:
        inputs = zip(("first", "second", "time"), (first, second, time), strict=True)
        h = affine(p, f"{name}.hidden", sum(affine(p, f"{name}.{part}", x) for part, x in inputs).relu()).relu()
        s = affine(p, f"{name}.scale", h).tanh() * p[f"{name}.scale_by"].exp()
        q = affine(p, f"{name}.bend", h).tanh() * p[f"{name}.bend_by"].exp()
        return s, affine(p, f"{name}.shift", h), q

    def of_momentum(x: Any, time: Any) -> Any:
        slope = batch["inverse"] @ x
        s, t, q = net("momentum", x, slope, time)
        return step / 2 * s, -step / 2 * (slope * torch.exp(step * q) + t)

    def of_position(x: Any, v: Any, kept: Any, time: Any) -> Any:
        s, t, q = net("position", v, kept * x, time)
        return step * s, step * (v * torch.exp(step * q) + t)

    def energy(x: Any, v: Any) -> Any:
        return (x @ batch["inverse"] @ x + v @ v) / 2

    costs = []
    for index, (forward,) in enumerate(batch["forward"].tolist()):
        x, v, log_det = batch["x"][index], batch["v"][index], torch.zeros(())
        steps = list(zip(batch["mask"][:, index], batch["time"][:, index], strict=True))
        for m, time in steps:
            for kept in (None, m, 1 - m, None):
                scale, shift = of_momentum(x, time) if kept is None else of_position(x, v, kept, time)
                moving = 1.0 if kept is None else 1 - kept
                old = v if kept is None else x
                new = old * scale.exp() + shift if forward else (old - shift) / scale.exp()
                log_det = log_det + (moving * scale).sum() * (1 if forward else -1)
                x, v = (x, new) if kept is None else (kept * x + moving * new, v)
        accepted = (energy(batch["x"][index], batch["v"][index]) - energy(x, v) + log_det).clamp(max=0).exp()
        jumped = (x - batch["x"][index]).square().sum() * accepted + 1e-4
        costs.append(0.1**2 / jumped - jumped / 0.1**2)
    return torch.stack(costs).mean()


def in_graph_training(p: Tensors, batch: Tensors) -> torch.Tensor:
    def loss(weights: list[torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(batch["image"][chosen], *weights), batch["label"][chosen])

    weights = [p["out.weight"], p["out.bias"]]
    for chosen in batch["chosen"][:-1]:
        gradients = torch.autograd.grad(loss(weights, chosen), weights, create_graph=True)
        weights = [w - p["rate"] * g for w, g in zip(weights, gradients, strict=True)]
    return loss(weights, batch["chosen"][-1])


REFERENCES: Mapping[str, Callable[[Tensors, Tensors], torch.Tensor]] = {
    function.__name__: function
    for function in (
        early_exit,
        many_paths,
        block_drop,
        moe,
        dynamic_rnn,
        lstm_stack,
        rnn_lm,
        seq2seq,
        beam_search,
        tree_lstm,
        fixed_point,
        l2hmc,
        in_graph_training,
    )
}
