"""What the user can put right: a wrong field, file or record."""


class DataError(ValueError):
    """Wrong user input about data; its text names the field or file, the rule, the value found and what to do."""


class StoreError(DataError):
    """An object store refused or did not answer: nothing is known of the file that was asked for."""
