"""The parts of ``benchmarks/gpu.py``: each module has ``run(setup)``, which yields rows of plain values."""
