"""The one error of this package that is the user's to mend."""


class MonitoringError(ValueError):
    """Wrong input: a run that is not there, a store that cannot be used, a journal that is no journal.

    The message names the field or file, the rule, the value found and what to do.
    """
