"""SQLite files behind narrow interfaces."""
