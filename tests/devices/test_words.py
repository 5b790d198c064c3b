"""Words for devices, and what is said where one is not here."""

import pytest
import torch

from bptt.errors import ArgumentError
from bptt.ops import device as devices
from bptt.training import Settings, distributed


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "CUDA", "", "mps:0", "cuda:-1", 3])
def test_other_words_are_refused(word):
    for read in (devices.choose, lambda w: Settings(device=w)):
        with pytest.raises(
            ArgumentError, match="expected auto, cpu, cuda, cuda:N or mps for --device"
        ):
            read(word)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs."""

    def of(gpus, build="12.8", current=0):
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.version, "hip", None, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return of


@pytest.mark.parametrize(
    ("build", "said"), [(None, "a build without CUDA"), ("12.8", r"built for CUDA 12\.8")]
)
@pytest.mark.parametrize("word", ["cuda", "cuda:1"])
def test_cuda_that_is_not_here(word, build, said, machine):
    machine(0, build)
    with pytest.raises(
        ArgumentError, match=rf"--device {word}, received torch \S+, {said}; torch\.cuda\.is_ava"
    ):
        devices.choose(word)
    assert devices.choose("auto") == torch.device("cpu")


def test_mps_that_is_not_here():
    with pytest.raises(
        ArgumentError, match=r"an Apple GPU for --device mps, received torch .* is False: use"
    ):
        devices.choose("mps")
    with pytest.raises(ArgumentError, match="cpu or cuda beside --amp for --device, received mps"):
        Settings(device="mps", amp=True)


def test_which_gpu(machine, monkeypatch):
    machine(2, current=1)
    assert [devices.choose(w).index for w in ("auto", "cuda", "cuda:0")] == [1, 1, 0]
    with pytest.raises(ArgumentError, match="number 5 for --device cuda:5, received 2 GPUs"):
        devices.choose("cuda:5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert [devices.choose(w).index for w in ("auto", "cuda")] == [0, 0]
    with pytest.raises(ArgumentError, match="received --device cuda:1: leave the number out"):
        devices.choose("cuda:1")
    machine(1)
    assert devices.choose("auto") == torch.device("cpu")
    with pytest.raises(
        ArgumentError, match=r"a GPU for each process.*received 2 processes and 1 GPUs"
    ):
        devices.choose("cuda")
    with pytest.raises(ArgumentError, match="for several processes, received --device mps"):
        devices.choose("mps")


@pytest.mark.parametrize("word", ["auto", "cpu", "cuda", "mps"])
def test_numbers_of_torchrun_that_are_none(word, machine, monkeypatch):
    machine(1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "")  # nothing is said
    devices.choose(word)
    for said in ("two", "-1", "1.0", "٣"):
        monkeypatch.setenv("WORLD_SIZE", said)
        with pytest.raises(
            ArgumentError, match=f"in the variable WORLD_SIZE, received '{said}': unset it"
        ):
            devices.choose(word)


def test_other_numbers_of_torchrun_that_are_none(machine, monkeypatch):
    machine(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "x")
        with pytest.raises(ArgumentError, match=f"in the variable {name}, received 'x'"):
            devices.choose("cuda")
        monkeypatch.setenv(name, "1")
    assert devices.choose("cuda").index == 1


@pytest.mark.parametrize(("where", "backend"), [("cpu", "gloo"), ("cuda:1", "nccl")])
def test_processes_meet_where_they_train(where, backend, monkeypatch):
    """gloo on the CPU; nccl on CUDA, and on the process's own GPU."""
    said = []
    for name in distributed.TORCHRUN:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda name, **_: said.append(name))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: said[-1])
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with distributed.joined(torch.device(where)) as group:
        assert group.device == where
    assert said == ([backend] if backend == "gloo" else [torch.device("cuda:1"), backend])
