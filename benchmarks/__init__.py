"""Side by side with the peers. Above the pipeline's three floors, and not installed with them."""
