"""Several adapters made into one, as a `Recipe` says.

`linear` is exact. The update of a module is the weighted sum of the parts' updates, and a sum of
products is one product of stacked matrices:

    w1 B1 A1 + w2 B2 A2 = [w1 B1, w2 B2] [A1; A2]

so ranks add up, and unlike ranks, alphas and targets are no difficulty. Adding the As and the Bs
instead, which keeps the rank, brings in B1 A2 and B2 A1, which nobody has trained.

The other methods do merge the As and the Bs apart, because that is what they are in PEFT and LoRAX;
they need equal ranks in a module. With PEFT, the square root of weight times scaling goes to either
side, and its sign to A.

Shape legend: R rank, I input and O output features of a module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import torch

from lorry_server.adapters.recipe import Recipe
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import MAX_RANK, Adapter, LoraWeights
from lorry_server.lora.merge_methods import merge

# A part's name with its weight and its matrices, of one module.
Share = tuple[str, float, LoraWeights]


def compose(recipe: Recipe, parts: Sequence[Adapter]) -> Adapter:
    """Return the adapter that `recipe` makes of `parts`, which are in its order.

    Its digest is the recipe's over the parts' digests; its matrices are float32 on the CPU. Raises
    AdapterError that names the part and the module that cannot be combined.
    """
    digest = recipe.digest([part.digest for part in parts])
    modules = {
        module: _combined(recipe, module, shares, digest=digest)
        for module, shares in _by_module(recipe, parts).items()
    }
    rank = max(weights.rank for weights in modules.values())
    return Adapter(
        path=Path(str(recipe)),
        digest=digest,
        rank=rank,
        alpha=float(rank),  # of a scaling of 1: those of the parts are in the matrices
        target_modules=tuple(sorted({name for part in parts for name in part.target_modules})),
        num_bytes=sum(w.a_RI.nbytes + w.b_OR.nbytes for w in modules.values()),
        modules=modules,
    )


def _by_module(recipe: Recipe, parts: Sequence[Adapter]) -> Mapping[str, list[Share]]:
    """The parts that change each module, modules by name, parts in the recipe's order."""
    shares: dict[str, list[Share]] = {}
    for wanted, part in zip(recipe.parts, parts, strict=True):
        for module, weights in part.modules.items():
            shares.setdefault(module, []).append((wanted.adapter, wanted.weight, weights))
    return dict(sorted(shares.items()))


def _combined(
    recipe: Recipe, module: str, shares: Sequence[Share], *, digest: str
) -> LoraWeights:
    _check_shapes(recipe, module, shares)
    if recipe.method == "linear":
        combined = _stacked(recipe, module, shares)
    else:
        combined = _merged(recipe, module, shares, digest=digest)
    if not (combined.a_RI.isfinite().all() and combined.b_OR.isfinite().all()):
        raise AdapterError(
            f"recipe {str(recipe)!r} is too large for float32 at {module!r}; use smaller weights"
        )
    return combined


def _check_shapes(recipe: Recipe, module: str, shares: Sequence[Share]) -> None:
    first_name, _, first = shares[0]
    for name, _, weights in shares[1:]:
        wanted = (first.b_OR.shape[0], first.a_RI.shape[1])
        given = (weights.b_OR.shape[0], weights.a_RI.shape[1])
        if given != wanted:
            raise AdapterError(
                f"recipe {str(recipe)!r}: {module!r} has {wanted[1]} inputs and {wanted[0]} "
                f"outputs in {first_name!r}, and {given[1]} and {given[0]} in {name!r}; "
                "they were made for different models"
            )


def _stacked(recipe: Recipe, module: str, shares: Sequence[Share]) -> LoraWeights:
    rank = sum(weights.rank for _, _, weights in shares)
    if rank > MAX_RANK:
        raise AdapterError(
            f"recipe {str(recipe)!r}: the ranks of {module!r} ({_ranks(shares)}) add up to {rank}; "
            f"at most {MAX_RANK} is supported"
        )
    return LoraWeights(
        torch.cat([weights.a_RI for _, _, weights in shares]),
        torch.cat([weight * weights.b_OR for _, weight, weights in shares], dim=1),
    )


def _merged(
    recipe: Recipe, module: str, shares: Sequence[Share], *, digest: str
) -> LoraWeights:
    if len({weights.rank for _, _, weights in shares}) > 1:
        raise AdapterError(
            f"recipe {str(recipe)!r}: {module!r} has unlike ranks ({_ranks(shares)}), and "
            f"{recipe.method} needs equal ones; linear does not"
        )
    assert recipe.density is not None  # every method but linear has one
    generator = torch.Generator().manual_seed(_seed_of(digest, module))
    factors = [weight * weights.scaling for _, weight, weights in shares]
    roots = [math.sqrt(abs(factor)) for factor in factors]

    return LoraWeights(
        merge(
            [weights.a_RI for _, _, weights in shares],
            [math.copysign(root, factor) for root, factor in zip(roots, factors, strict=True)],
            method=recipe.method,
            density=recipe.density,
            majority_sign_method=recipe.majority_sign_method,
            generator=generator,
        ),
        merge(
            [weights.unscaled_b_OR for _, _, weights in shares],
            roots,
            method=recipe.method,
            density=recipe.density,
            majority_sign_method=recipe.majority_sign_method,
            generator=generator,
        ),
    )


def _seed_of(digest: str, module: str) -> int:
    """The same for the same recipe and module, whatever other modules there are."""
    seed = blake2b(f"{digest}/{module}".encode(), digest_size=8).digest()
    return int.from_bytes(seed, "little")


def _ranks(shares: Sequence[Share]) -> str:
    return ", ".join(f"{name} {weights.rank}" for name, _, weights in shares)
