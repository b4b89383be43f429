"""The calculations of the stage ``analyze``, and its files for the report."""
