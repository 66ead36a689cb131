"""What every test shares: few threads, a fixed seed, no network, reproducible property tests."""

from __future__ import annotations

import ipaddress
import os
import sys

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# Tiny models gain nothing from a pool of threads, and two test runs side by side lose.
torch.set_num_threads(1)


def _is_this_machine(host: object) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: a test that would leave this machine fails instead, with its reason."""
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and not _is_this_machine(address[0]):
            raise RuntimeError(f"Tests run offline, but one connects to {address[0]}.")


sys.addaudithook(_refuse_network)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
