"""Safetensors files of every dtype, read with and without torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tain.foundation.tensors import read_arrays, read_tensors

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", [*TYPES, *WHOLE])
def test_numbers_are_those_that_torch_reads(dtype: torch.dtype, tmp_path: Path):
    stored = (torch.arange(-12.0, 12.0).view(4, 6) / 3).to(dtype)
    save_file({"table": stored, "scalar": stored[1, 2].clone(), "none": stored[:0].clone()}, tmp_path / "file.safetensors")
    arrays, tensors = read_arrays(tmp_path / "file.safetensors"), read_tensors(tmp_path / "file.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {"table": (4, 6), "scalar": (), "none": (0, 6)}
    np.testing.assert_array_equal(arrays["table"].astype(np.float64), stored.double().numpy())
    np.testing.assert_array_equal(arrays["scalar"].astype(np.float64), stored[1, 2].double().numpy())
    assert tensors["table"].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_all_eight_bit_numbers_have_torchs_values(dtype: torch.dtype, tmp_path: Path):
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    save_file({"every": every}, tmp_path / "file.safetensors")
    np.testing.assert_array_equal(read_arrays(tmp_path / "file.safetensors")["every"], every.float().numpy())


@pytest.mark.parametrize("read", [read_arrays, read_tensors])
def test_what_cannot_be_read_is_a_value_error(read, tmp_path: Path):
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 20)
    for name in ("damaged.safetensors", "missing.safetensors"):
        with pytest.raises(ValueError, match=r"."):
            read(tmp_path / name)
