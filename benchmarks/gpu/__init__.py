"""What one GPU says of the compute path, in under ten minutes; see __main__.py."""
