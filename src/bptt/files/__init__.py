"""Files and folders: written whole or not at all, read with care, never followed out of their folder."""
