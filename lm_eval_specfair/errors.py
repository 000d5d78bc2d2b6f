"""The one exception that the command line shows without a traceback."""

# The command line refuses it before lm-eval begins its cache; elsewhere, the model does.
NO_RESPONSE_CACHE = (
    "--use_cache would replay texts and statistics of another drafter (its key holds neither the "
    "models nor num_speculative_tokens); run without it, and use records_dir=... with resume=true "
    "to resume a killed run"
)


class ConfigError(ValueError):
    """The user's input is wrong, and the user can fix it.

    Its message says what was expected, what it got and what to do. The command line prints it as
    one line and ends with status 2; from Python it is an ordinary ``ValueError``.
    """
