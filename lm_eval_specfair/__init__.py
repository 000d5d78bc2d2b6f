"""A plugin for lm-evaluation-harness: who gets the speed-up of speculative decoding?

It is a library too: `lm_eval_specfair.api` has the functions that
this package exports. They are loaded when they are first used, since the hook imports this module
in every Python start of the environment that the package is installed in.
"""

__version__ = "0.1.0"

__all__ = [
    "LoadedRun",
    "Report",
    "RunComparison",
    "RunTrend",
    "__version__",
    "compare",
    "coverage",
    "fit",
    "import_logs",
    "load_run",
    "mixture",
    "plan",
    "policy",
    "prune",
    "replay",
    "report",
    "trace",
    "train",
    "trend",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("lm_eval_specfair.api"), name)


def __dir__() -> list[str]:
    return __all__
