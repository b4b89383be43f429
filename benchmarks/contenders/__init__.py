"""Who is measured: one file each, with a function ``train(task, clock)`` that never returns.

It trains on and on in its own loop and takes its batches through the clock, which decides how many.
Each runs in a process of its own (``benchmarks.worker``).
"""
