"""Random weights for trials of a pipeline: a pure function of the seed and each parameter's name and shape.

No library's initialisation is used: those differ between versions and processors in the last bits, and two machines
must agree on a teacher's identity.
"""

import hashlib
import math

import numpy as np
import torch
from torch import nn

CONVOLUTION_DIMENSIONS = 4
GAIN = {True: 2.0, False: 1.0}  # variance of weights times fan-in: of convolutions, before ReLUs, and of the others
EMBEDDING_STD = 0.02  # of positions, CLS and registers
TWENTY_FOUR_BITS = 2**24


def fill(network: nn.Module, seed: int) -> None:
    """Fill the parameters of a network in place; a network on the meta device is given CPU memory first.

    Matrices and kernels are uniform with a variance that keeps activations in range, vectors are one (scales) or zero
    (biases). Buffers stay as the network was built, so they must not be on the meta device.

    Args:
        network: network as it was built.
        seed: seed of all parameters.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.rpartition(".")[2] in ("bias", "beta") else 1.0)
            else:
                parameter.copy_(torch.from_numpy(_uniform(seed, name, tuple(parameter.shape))))


def _uniform(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return uniform float32 of mean zero: 24 random bits each, scaled by one number, so equal on every machine."""
    fan_in = math.prod(shape[1:])
    variance = EMBEDDING_STD**2 if shape[0] == 1 else GAIN[len(shape) == CONVOLUTION_DIMENSIONS] / fan_in
    key = hashlib.sha256(f"{seed}\0{name}\0{shape}".encode()).digest()
    words = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw((math.prod(shape) + 1) // 2)
    bits = words.view(np.uint32)[: math.prod(shape)] >> np.uint32(8)
    centred = bits.astype(np.int32) * 2 - (TWENTY_FOUR_BITS - 1)
    bound = np.float32(math.sqrt(3 * variance) / TWENTY_FOUR_BITS)
    return (centred.astype(np.float32) * bound).reshape(shape)
