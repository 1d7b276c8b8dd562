//! swarm-node
