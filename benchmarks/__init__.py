"""How fast and how small attnviz is, as ratios against the plain way of doing the same, measured in one run.

``make bench`` runs all of it; ``python -m benchmarks score plot`` runs the benchmarks with those words in their names.
A benchmark is a function under ``@benchmark`` that yields comparisons, in any module of this package; its plain
scripts lie in ``baselines/``.
"""
