//! Contents of git.
