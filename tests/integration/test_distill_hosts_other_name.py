"""The same LightningModules, written for ``pytorch_lightning``."""

from __future__ import annotations

from tests.other_name import load, renamed_tests

load("tests.integration.hosts")
_HOSTS = {"from tests.integration import hosts": "import tests.integration.hosts_of_pytorch_lightning as hosts"}
globals().update(renamed_tests("tests.integration.test_distill_hosts", **_HOSTS))
