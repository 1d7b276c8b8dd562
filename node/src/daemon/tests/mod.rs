mod contract;
#[cfg(feature = "kubo")]
mod hostile;
#[cfg(feature = "kubo")]
mod ipfs;
mod mirroring;
#[cfg(feature = "kubo")]
mod server;
#[cfg(feature = "kubo")]
mod wire;
