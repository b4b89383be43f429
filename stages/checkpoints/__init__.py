"""Where a training is kept until it is done: whole files, held by who uses them."""
