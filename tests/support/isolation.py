# SPDX-License-Identifier: Apache-2.0
"""The rule that the whole suite stands on: weights in their version's pool, requests in none.

Pure functions over addresses, so that they can be fed what they must reject.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

#: Name of the pool that an address lies in; None or "" = in no pool.
PoolOf = Callable[[int], "str | None"]

#: How the allocators of pools are named in TensorFlow's step stats.
POOL_ALLOCATOR_PREFIX = "model_pool"
#: From this size on, oneDNN's allocator serves a tensor from its BFC pool.
LARGE_BYTES = 256 * 1024


@dataclasses.dataclass(frozen=True)
class RequestTensor:
    """A tensor that a request read or made. `address` 0 and `allocator` "" mean not known."""

    name: str
    allocator: str
    address: int
    size_bytes: int = 0


def weight_violations(addresses: Mapping[str, Mapping[str, int]], pool_of: PoolOf) -> list[str]:
    """What is wrong with where weights lie.

    `addresses`: name of the pool that must hold them -> variable -> address. Besides what
    `pool_of` says, the address ranges of two versions must not overlap.
    """
    violations = []
    for pool, variables in addresses.items():
        if not variables:
            violations.append(f"{pool}: no variables")
        for name, address in variables.items():
            found = pool_of(address)
            if found != pool:
                violations.append(f"{pool}: {name} at {address:#x} lies in {found or 'no pool'}")
    ranges = sorted(
        (min(variables.values()), max(variables.values()), pool)
        for pool, variables in addresses.items()
        if variables
    )
    for (_, end, lower), (start, _, upper) in itertools.pairwise(ranges):
        if start <= end:
            violations.append(f"{lower} and {upper} overlap")
    return violations


def request_violations(
    tensors: Sequence[RequestTensor], weights: Collection[int], pool_of: PoolOf
) -> list[str]:
    """What is wrong with where a request's tensors lie.

    Reading a variable gives a tensor that shares its buffer, so the addresses in `weights` may
    lie in a pool. A list without one large tensor proves nothing and is a violation too.
    """
    violations = []
    if not any(tensor.size_bytes >= LARGE_BYTES for tensor in tensors):
        violations.append("no large tensor among the request's tensors")
    for tensor in tensors:
        if tensor.address and tensor.address in weights:
            continue
        if tensor.allocator.startswith(POOL_ALLOCATOR_PREFIX):
            violations.append(f"{tensor.name} was allocated by {tensor.allocator}")
        pool = pool_of(tensor.address) if tensor.address else None
        if pool:
            violations.append(f"{tensor.name} at {tensor.address:#x} lies in {pool}")
    return violations
