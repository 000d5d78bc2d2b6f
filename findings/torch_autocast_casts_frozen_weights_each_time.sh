#!/usr/bin/env bash
# One would guess: autocast makes one half-precision copy of a weight and keeps it until its block ends.
# What happens (torch 2.13.0): it keeps copies only of weights that have gradients; a frozen weight is cast
# again at every product, while the same layer with gradients is cast once.
# Why it matters: what distils a drafter freezes its target. Scores of 49,152 tokens taken in chunks cast the
# target's head once a chunk, which took longer than the products: a third of a step's time was copying.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
"$work/env/bin/python" - <<'PY'
import torch
from torch.utils._python_dispatch import TorchDispatchMode

print("torch", torch.__version__.partition("+")[0])


class Casts(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].shape == (50, 8):
            self.number += 1
        return func(*args, **(kwargs or {}))


found = {}
for learns in (True, False):
    layer = torch.nn.Linear(8, 50, bias=False).requires_grad_(learns)
    with torch.autocast("cpu", torch.bfloat16), Casts() as casts:
        for _ in range(10):
            layer(torch.randn(3, 8))
    found[learns] = casts.number
    print("with gradients" if learns else "frozen", "- copies in ten products:", casts.number)
assert found == {True: 1, False: 10}, "it has changed"
PY
# Seen:
# torch 2.13.0
# with gradients - copies in ten products: 1
# frozen - copies in ten products: 10
