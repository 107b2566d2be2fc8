"""Generated stubs of the protocol that Endoscope defines."""
