"""Outside systems measured beside our engines, one file each, imported only when asked for."""
