"""What the stage ``report`` is made of: the summary, the charts and the page."""
