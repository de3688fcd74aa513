"""Shared by all tests: one thread, no network."""

import socket

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Offline means no socket: opening one to anywhere fails the test."""

    def refuse(self, address):
        if self.family == socket.AF_UNIX:
            raise OSError("no sockets in tests")
        raise AssertionError(f"a test opened a socket to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
