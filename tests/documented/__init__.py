"""Every command that the repository shows to a reader: where it stands, how it shrinks to toy size, how it runs."""
