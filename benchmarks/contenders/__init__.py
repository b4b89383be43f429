"""The measured contenders, one file each, with a function ``train(task, clock)``.

``train`` runs the contender's own training loop and draws its batches through the clock, which ends
the process when the measurement is complete. See ``benchmarks.worker``.
"""
