import pytest


@pytest.fixture(scope="module", autouse=True)
def _small(small):
    """Everything that runs in the process of these tests makes little effort; what they start as a program does not."""
