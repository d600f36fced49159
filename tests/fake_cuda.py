"""A process that trains on one of several GPUs, as far as torch says so."""

import os

import torch


def train_on(monkeypatch, gpu, count=4):
    """Let this process use a GPU; a child, also a forked one, does not use it yet."""
    process = os.getpid()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: os.getpid() == process)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: gpu)
