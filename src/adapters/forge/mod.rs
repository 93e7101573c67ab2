//! Contents of forge.
