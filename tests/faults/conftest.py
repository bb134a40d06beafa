"""What tests of faults share with those of the packages."""

from tests.monitoring.conftest import empty_database, out_dir

__all__ = ["empty_database", "out_dir"]
