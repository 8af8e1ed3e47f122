"""Every figure that the project publishes, each from a module that anyone can run.

``make bench NAME=embedding`` or ``python -m benchmarks embedding --json FILE``. Subject and control
alternate in one run; figures are medians with minimum and maximum.
"""
