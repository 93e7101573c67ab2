//! Contents of agents.
