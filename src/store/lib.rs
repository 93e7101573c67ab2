//! Room store: SQLite. One writer thread, readers, migrations; no business choice in SQL.
