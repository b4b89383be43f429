"""Results for others: remotes, published experiments, releases."""
