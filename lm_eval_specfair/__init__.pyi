from lm_eval_specfair.api import (
    LoadedRun,
    Report,
    RunComparison,
    RunTrend,
    compare,
    coverage,
    import_logs,
    load_run,
    plan,
    policy,
    replay,
    report,
    trace,
    train,
    trend,
)

__all__ = [
    "LoadedRun",
    "Report",
    "RunComparison",
    "RunTrend",
    "__version__",
    "compare",
    "coverage",
    "import_logs",
    "load_run",
    "plan",
    "policy",
    "replay",
    "report",
    "trace",
    "train",
    "trend",
]

__version__: str
