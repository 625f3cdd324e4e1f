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
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from lorry_server.adapters.recipe import Recipe
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import Adapter, LoraWeights
from lorry_server.lora.merge_methods import merge
from lorry_server.lora.peft_tensors import MAX_RANK

# What is still low-rank updates alone, with their scaling folded in.
COMPOSABLE_FEATURES = frozenset({"rslora", "embedding", "lm_head"})


@dataclass(frozen=True, slots=True)
class Share:
    """What one part brings to one module; `name` is the part's, for messages."""

    name: str
    weight: float
    weights: LoraWeights

    @property
    def shape(self) -> tuple[int, int]:
        """Of the update: outputs, inputs."""
        return self.weights.b_OR.shape[0], self.weights.a_RI.shape[1]

    @property
    def unscaled_b_OR(self) -> Tensor:
        """B as it was trained, but for rounding; zero where the scaling is zero."""
        b_OR, scaling = self.weights.b_OR, self.weights.scaling
        return b_OR / scaling if scaling else b_OR


def compose(recipe: Recipe, parts: Sequence[Adapter]) -> Adapter:
    """Return the adapter that `recipe` makes of `parts`, which are in its order.

    Its digest is the recipe's over the parts' digests; its matrices are float32 on the CPU. Raises
    AdapterError that names the part, and the module, that cannot be combined.
    """
    for name, part in zip(recipe.adapters, parts, strict=True):
        _check_features(recipe, name, part)
    composer = _Composer(recipe, recipe.digest([part.digest for part in parts]))
    modules = composer.combined([part.modules for part in parts])
    embedding = composer.combined([part.embedding for part in parts])
    pairs = [*modules.values(), *embedding.values()]
    rank = max(weights.rank for weights in pairs)
    features = {feature for part in parts for feature in part.features} - {"rslora"}
    return Adapter(
        path=Path(str(recipe)),
        digest=composer.digest,
        rank=rank,
        alpha=float(rank),  # a scaling of 1: those of the parts are in the matrices
        target_modules=tuple(sorted({name for part in parts for name in part.target_modules})),
        num_bytes=sum(weights.a_RI.nbytes + weights.b_OR.nbytes for weights in pairs),
        modules=modules,
        embedding=embedding,
        features=tuple(sorted(features)),
    )


def _check_features(recipe: Recipe, name: str, part: Adapter) -> None:
    others = sorted(set(part.features) - COMPOSABLE_FEATURES)
    if others:
        raise AdapterError(
            f"recipe {str(recipe)!r}: adapter {name!r} has {', '.join(others)}, which cannot be "
            "combined with another; plain LoRA of any rank, scaling and target can"
        )
    if part.base_copies:
        raise AdapterError(
            f"recipe {str(recipe)!r}: adapter {name!r} holds {next(iter(part.base_copies))!r}, "
            "which is not an update; save it with save_embedding_layers=False"
        )


class _Composer:
    """Combines module by module; `digest` is that of the result, which decides what DARE drops."""

    def __init__(self, recipe: Recipe, digest: str) -> None:
        self.digest = digest
        self._recipe = recipe

    def combined(self, parts: Sequence[Mapping[str, LoraWeights]]) -> dict[str, LoraWeights]:
        """The modules of all parts, by name; a part without a module has no say in it."""
        shares: dict[str, list[Share]] = {}
        for wanted, modules in zip(self._recipe.parts, parts, strict=True):
            for module, weights in modules.items():
                share = Share(wanted.adapter, wanted.weight, weights)
                shares.setdefault(module, []).append(share)
        return {module: self._combine(module, shares[module]) for module in sorted(shares)}

    def _combine(self, module: str, shares: Sequence[Share]) -> LoraWeights:
        first = shares[0]
        for other in shares[1:]:
            if other.shape != first.shape:
                raise self._error(
                    f"{module!r} is {first.shape[0]} x {first.shape[1]} in {first.name!r} and "
                    f"{other.shape[0]} x {other.shape[1]} in {other.name!r}: "
                    "they were made for different models"
                )
        is_linear = self._recipe.method == "linear"
        combined = self._stacked(module, shares) if is_linear else self._merged(module, shares)
        if not (combined.a_RI.isfinite().all() and combined.b_OR.isfinite().all()):
            raise self._error(f"{module!r} is beyond float32; use smaller weights")
        return combined

    def _stacked(self, module: str, shares: Sequence[Share]) -> LoraWeights:
        rank = sum(share.weights.rank for share in shares)
        if rank > MAX_RANK:
            raise self._error(
                f"the ranks of {module!r} ({_ranks(shares)}) add up to {rank}; "
                f"at most {MAX_RANK} is supported"
            )
        return LoraWeights(
            torch.cat([share.weights.a_RI for share in shares]),
            torch.cat([share.weight * share.weights.b_OR for share in shares], dim=1),
        )

    def _merged(self, module: str, shares: Sequence[Share]) -> LoraWeights:
        recipe = self._recipe
        if len({share.weights.rank for share in shares}) > 1:
            raise self._error(
                f"{module!r} has unlike ranks ({_ranks(shares)}), and {recipe.method} needs equal "
                "ones; linear does not"
            )
        assert recipe.density is not None  # every method but linear has one
        generator = torch.Generator().manual_seed(self._seed_of(module))
        factors = [share.weight * share.weights.scaling for share in shares]
        roots = [math.sqrt(abs(factor)) for factor in factors]
        a_RI = merge(
            [share.weights.a_RI for share in shares],
            [math.copysign(root, factor) for root, factor in zip(roots, factors, strict=True)],
            method=recipe.method,
            density=recipe.density,
            majority_sign_method=recipe.majority_sign_method,
            generator=generator,
        )
        b_OR = merge(
            [share.unscaled_b_OR for share in shares],
            roots,
            method=recipe.method,
            density=recipe.density,
            majority_sign_method=recipe.majority_sign_method,
            generator=generator,
        )
        return LoraWeights(a_RI, b_OR)

    def _seed_of(self, module: str) -> int:
        """The same for the same recipe and module, whatever other modules there are."""
        seed = blake2b(f"{self.digest}/{module}".encode(), digest_size=8).digest()
        return int.from_bytes(seed, "little")

    def _error(self, complaint: str) -> AdapterError:
        return AdapterError(f"recipe {str(self._recipe)!r}: {complaint}")


def _ranks(shares: Sequence[Share]) -> str:
    return ", ".join(f"{share.name} {share.weights.rank}" for share in shares)
