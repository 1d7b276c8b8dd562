//! Content in the formats of IPFS: files of any length and folders as UnixFS, whole DAGs, blocks in CAR archives. Only
//! archives do IO; whoever reads a file brings its blocks.

mod ahead;
pub mod car;
mod dag_pb;
mod path;
mod reader;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

pub use ahead::{MAX_AHEAD, read_ahead};
pub use dag_pb::{Child, Folder, decode_folder, encode_folder};
pub use path::{MAX_PATH_BYTES, PathError, Resolver};
pub use reader::Reader;
pub use walk::{Listing, MAX_WALK_BLOCKS, Walk, WalkError};
pub use writer::{Shape, Writer, import};

use crate::protobuf::WireError;

/// Bytes of a file in one block, as Helia cuts them.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Links of one node.
pub const MAX_LINKS: usize = 1024;
/// Links of a node that others made, which may be larger.
pub const MAX_FOREIGN_LINKS: usize = 8192;
/// Nodes above one another.
pub const MAX_DEPTH: usize = 8;
/// The largest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 40;
/// What a block of a file holds on average, at least: nobody has to fetch a file byte by byte.
pub const MIN_MEAN_BYTES: u64 = 4096;
/// Blocks that a file may have beyond that.
pub const MAX_SPARE_BLOCKS: u64 = 256;

const RAW: u64 = 0x55;
const DAG_PB: u64 = 0x70;
const DAG_CBOR: u64 = 0x71;

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnixFsError {
    #[error("the block is not part of a UnixFS file")]
    NotAFile,
    #[error("the block is not part of a UnixFS folder")]
    NotAFolder,
    #[error("the block is not the one that was asked for")]
    OtherBlock,
    #[error("lengths in the file's nodes contradict one another")]
    Lengths,
    #[error("the file has {0} bytes, over the limit")]
    TooLong(u64),
    #[error("a node of the file has too many links")]
    TooManyLinks,
    #[error("the nodes of the file lie too deep")]
    TooDeep,
    #[error("the file is cut into too many blocks for its length")]
    TooManyBlocks,
    #[error(transparent)]
    Wire(#[from] WireError),
}
