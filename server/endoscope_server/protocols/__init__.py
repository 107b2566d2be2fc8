"""Generated stubs of protocols that other projects define."""
