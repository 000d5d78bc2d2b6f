"""The one exception that the command line shows without a traceback."""

# Refused by the command line before lm-eval begins its cache, by the model elsewhere.
NO_RESPONSE_CACHE = (
    "--use_cache would replay texts and statistics of another drafter (its key holds neither the "
    "models nor num_speculative_tokens); run without it, and use records_dir=... with resume=true "
    "to go on with a killed run"
)


class ConfigError(ValueError):
    """The user's input is wrong, and the user can put it right.

    Its message says what was expected, what came and what to do. The command line prints it as one
    line and ends with status 2; from Python it is an ordinary ``ValueError``.
    """
