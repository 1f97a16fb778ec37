"""The comparison of a file with the simulation: what it lets through, and what it says of a processor that saturates."""

from __future__ import annotations

import pytest
import torch

from lissom import LissomError
from lissom.measure import parity
from lissom.plan import one_target


@pytest.mark.parametrize("vnni", [False, True])
def test_a_file_far_from_its_simulation_is_an_error_that_names_saturation_where_it_may_be(
        vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.surgery.bits.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: vnni)
    target, wanted = one_target("onnxruntime"), torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert parity(1.05 * wanted, wanted, target, quantized=True)["difference"] == pytest.approx(0.05, rel=1e-3)
    with pytest.raises(LissomError, match=r"differ by 0\.2 of their size") as raised:
        parity(1.2 * wanted, wanted, target, quantized=True, eight=True)
    assert ("no VNNI" in str(raised.value)) == (not vnni)
    for other, eight in ((target, False), (one_target("mnn(8)"), True)):
        with pytest.raises(LissomError, match="rms") as raised:
            parity(1.2 * wanted, wanted, other, quantized=True, eight=eight)
        assert "VNNI" not in str(raised.value)
    with pytest.raises(LissomError, match="exported = PyTorch") as raised:
        parity(1.2 * wanted, wanted, target, quantized=False)
    assert "VNNI" not in str(raised.value)
