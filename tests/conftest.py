"""Settings of all tests."""

from hypothesis import settings

# An example's time says more about the machine than about the code; each test has a deadline of its own anyway.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")
