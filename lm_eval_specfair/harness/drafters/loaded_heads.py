"""Loaded heads: drafters on the target's own hidden states, as a run has them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lm_eval_specfair.decoding.heads.eagle3_head import Eagle3Head
from lm_eval_specfair.decoding.heads.head_drafter import ChainHead, Eagle3Chain, HeadDrafter
from lm_eval_specfair.decoding.heads.head_folder import fit_to, head_facts, read_head
from lm_eval_specfair.decoding.heads.mtp_chain import MtpChain, load_mtp
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model_arguments import Arguments


@dataclass(frozen=True)
class LoadedHead:
    """A head that fits the run's target."""

    model: Eagle3Head
    as_scorer: None = None  # it scores no text but the target's next tokens

    @cached_property
    def covered(self) -> frozenset[int] | None:
        """The target's tokens that it drafts; None where it drafts all."""
        head = self.model
        return frozenset(head.target_ids.tolist()) if head.config.is_pruned else None

    @property
    def num_bytes(self) -> int:
        """Of its weights, without an embedding that is the target's."""
        return sum(weight.nbytes for weight in self.model.parameters())

    def settings(self) -> dict[str, Any]:
        """What `run.json` says of it."""
        return head_facts(self.model)

    def drafter(self, target: CausalModel) -> HeadDrafter:
        """What drafts with it.

        Raises:
            ConfigError: If the target's hidden states cannot be had.
        """
        return drafter_on(target, Eagle3Chain(self.model))


@dataclass(frozen=True)
class LoadedMtp:
    """The target's own module for multi-token prediction."""

    model: Any
    chain: MtpChain
    as_scorer: None = None
    covered: None = None  # it drafts all of the target's tokens

    @property
    def num_bytes(self) -> int:
        """Of its own weights; embedding and output layer are the target's."""
        return sum(weight.nbytes for weight in self.model.layers.parameters())

    def settings(self) -> dict[str, Any]:
        """What `run.json` says of it."""
        return {"kind": "mtp", "feature_layers": list(self.chain.feature_layers)}

    def drafter(self, target: CausalModel) -> HeadDrafter:
        """What drafts with it.

        Raises:
            ConfigError: If the target's hidden states cannot be had.
        """
        return drafter_on(target, self.chain)


def load_own_module(name: str, target: PreTrainedModel) -> LoadedMtp:
    """The module of a target of this name.

    Raises:
        ConfigError: If it has none, or one that cannot draft here.
    """
    module = load_mtp(target, name)
    return LoadedMtp(module, MtpChain(module, target))


def drafter_on(target: CausalModel, head: ChainHead) -> HeadDrafter:
    """A head that drafts, once it is known that the target's hidden states can be had.

    Raises:
        ConfigError: If they cannot.
    """
    target.watch(head.feature_layers)
    target.watch(())
    return HeadDrafter(head)


def load_head(folder: Path, name: str, arguments: Arguments, target: PreTrainedModel) -> LoadedHead:
    """A head on the target's device and in its type.

    Raises:
        ConfigError: If it cannot be read, or is another target's.
    """
    if arguments.drafter_vocabulary != "auto" or arguments.for_drafter:
        given = next(iter(arguments.for_drafter), "")
        what = f"drafter_{given}" if given else "drafter_vocabulary"
        raise ConfigError(
            f"{what} is for drafting models; drafter {name!r} is a head: leave it out"
        )
    text = target.config.get_text_config(decoder=True)
    head = read_head(folder, num_target_layers=int(text.num_hidden_layers), dtype=target.dtype)
    fit_to(head, target, name)
    head.requires_grad_(False)
    return LoadedHead(head.to(target.device))
