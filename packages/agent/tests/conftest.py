"""Contract suites of the testkit get pytest's detailed assertions, as test files do."""

import pytest

pytest.register_assert_rewrite("ai.backend.testkit.container_contract")
