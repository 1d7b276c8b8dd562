//! swarm-tests
