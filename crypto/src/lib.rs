//! swarm-crypto
