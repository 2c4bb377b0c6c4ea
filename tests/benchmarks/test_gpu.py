"""The script that measures a GPU runs whole, on a CPU and at a small size."""

import gpu
import pytest


@pytest.mark.slow
def test_every_row_is_there_in_both_dtypes(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n")
    gpu.main(["--device", "cpu", "--small", "--limit", "300", "--write", str(page)])
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert sum("| yes |" in row for row in rows) == 5
    timed = [row.split(" | ") for row in rows if "test_vit, 4 pairs" in row]
    assert [row[2] for row in timed] == ["float32"] * 5 + ["bfloat16"] * 5
    assert all(float(row[3]) > 0 for row in timed)
