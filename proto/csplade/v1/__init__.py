"""Generated messages and stubs of csplade.v1."""
