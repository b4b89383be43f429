"""What keeps a machine in working order: diagnosis, disk, cleaning up."""
