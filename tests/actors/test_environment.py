import pytest

from actors.environment import CPU, GPU, environment


def test_what_a_process_that_computes_finds_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CPU, *GPU, "OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert environment(0) == {"GOMP_SPINCOUNT": "5000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # the user's own
    assert environment(0) == {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
    assert environment(0.5) == GPU
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")  # by its other name
    assert environment(1) == {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    assert environment(1) == {}
