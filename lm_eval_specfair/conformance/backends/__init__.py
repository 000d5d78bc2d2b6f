"""Adapters of decoders, one module each, and how one is found by its name."""

import importlib

from lm_eval_specfair.conformance.adapter import Backend
from lm_eval_specfair.errors import ConfigError

NAMES = {
    "specfair": "lm_eval_specfair.conformance.backends.specfair:SpecfairBackend",
    "specfair-heads": "lm_eval_specfair.conformance.backends.heads:HeadBackend",
    "assisted": "lm_eval_specfair.conformance.backends.assisted:AssistedBackend",
    "vllm": "lm_eval_specfair.vllm.conformance_adapter:VllmBackend",
    "vllm-mended": "lm_eval_specfair.vllm.conformance_adapter:MendedVllmBackend",
}
"""Where each backend is: its packages are imported only when it is asked for."""


def load(name: str) -> Backend:
    """The backend of one of `NAMES`, or what `package.module:Name` of your own makes when called.

    Raises:
        ConfigError: If there is none of this name, or its package is not installed.
    """
    module, _, attribute = NAMES.get(name, name).partition(":")
    if not (module and attribute):
        raise ConfigError(
            f"--backend must be one of {', '.join(NAMES)} or package.module:Name, got {name!r}"
        )
    where = f"--backend {name}"
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{where} cannot be imported ({error}); the module must be on the Python path "
            "(PYTHONPATH=. for the folder you are in)"
        ) from error
    backend: Backend = make()
    names = ("name", "capabilities", "num_samples", "versions", "decode")
    missing = [name for name in names if not hasattr(backend, name)]
    if missing:
        raise ConfigError(
            f"{where} is no backend: it lacks {', '.join(missing)} "
            "(lm_eval_specfair.conformance.adapter.Backend says what each is)"
        )
    return backend
