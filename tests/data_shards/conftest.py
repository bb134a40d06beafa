"""Fixtures of this folder's tests."""

from tests.data_shards.s3 import bucket as bucket
from tests.data_shards.s3 import s3_server as s3_server
