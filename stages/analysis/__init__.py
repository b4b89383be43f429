"""What the stage ``analyze`` calculates, and the files that the report reads of it."""
