"""The one exception that the command line shows without a traceback."""


class ConfigError(ValueError):
    """The user's input is wrong, and the user can put it right.

    Its message says what was expected, what came and what to do. The command line prints it as one
    line and ends with status 2; from Python it is an ordinary ``ValueError``.
    """
