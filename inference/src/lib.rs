//! swarm-inference
