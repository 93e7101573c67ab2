//! Contents of jobs.
