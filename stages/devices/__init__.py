"""Where a model runs; runner.py is the one file that runs on all of them."""
