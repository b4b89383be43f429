"""The parts of the stage ``report``: summary, charts and page."""
