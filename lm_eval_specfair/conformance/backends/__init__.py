"""Decoders behind the suite's protocol, each in a module of its own."""

import importlib

from lm_eval_specfair.conformance.adapter import Backend
from lm_eval_specfair.errors import ConfigError

NAMES = ("specfair", "assisted", "vllm", "vllm-mended")


def load(name: str) -> Backend:
    """The backend of a name; its packages are imported now.

    Args:
        name: One of `NAMES`, or `package.module:Name` of your own: a class or function that takes
            nothing and returns a `Backend`.

    Raises:
        ConfigError: If there is none of this name, or its package is not installed.
    """
    if name == "specfair":
        from lm_eval_specfair.conformance.backends.specfair import SpecfairBackend

        return SpecfairBackend()
    if name == "assisted":
        from lm_eval_specfair.conformance.backends.assisted import AssistedBackend

        return AssistedBackend()
    if name == "vllm":
        from lm_eval_specfair.conformance.backends.vllm import VllmBackend

        return VllmBackend()
    if name == "vllm-mended":
        from lm_eval_specfair.conformance.backends.vllm import MendedVllmBackend

        return MendedVllmBackend()
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(
            f"--backend must be one of {', '.join(NAMES)} or package.module:Name, got {name!r}"
        )
    return _own(module, attribute)


def _own(module: str, attribute: str) -> Backend:
    """A user's backend, imported and made."""
    where = f"--backend {module}:{attribute}"
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{where} cannot be imported ({error}); the module must lie on the Python path "
            "(PYTHONPATH=. for the folder you are in)"
        ) from error
    backend: Backend = make()
    missing = [
        word
        for word in ("name", "capabilities", "num_samples", "versions", "decode")
        if not hasattr(backend, word)
    ]
    if missing:
        raise ConfigError(
            f"{where} is no backend: it lacks {', '.join(missing)} "
            "(lm_eval_specfair.conformance.adapter.Backend says what each is)"
        )
    return backend
