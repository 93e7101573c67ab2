//! Contents of notify.
