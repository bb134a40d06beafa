"""The one error class of this package for wrong user input."""


class ModelError(ValueError):
    """A setting, a folder of weights or a request for text that cannot be used; the message says what to do."""
