//! Archives of blocks: CARv1, as <https://ipld.io/specs/transport/car/carv1/> gives it.

use crate::protobuf::{put_varint, varint};
use cid::Cid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use swarm_protocol::codec;

/// The largest header, in bytes.
pub const MAX_HEADER_BYTES: u64 = 64 << 10;
/// The largest section: a block and its CID.
pub const MAX_SECTION_BYTES: u64 = (2 << 20) + 128;
const MAX_VARINT: usize = 10;
/// Blocks of an archive that is searched.
const MAX_INDEXED: usize = 4_000_000;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CarError {
    #[error("the archive is not a CAR of version 1")]
    NotACar,
    #[error("a section of the archive has {size} bytes, over the limit of {max}")]
    TooLarge { size: u64, max: u64 },
    #[error("a block of the archive is not {0}")]
    OtherBlock(Cid),
    #[error("the archive has more than {MAX_INDEXED} blocks")]
    TooMany,
    #[error("the archive cannot be read: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    roots: Vec<Cid>,
    version: u64,
}

/// Writes an archive, block after block.
#[derive(Debug)]
pub struct CarWriter<W> {
    out: W,
}

impl<W: Write> CarWriter<W> {
    /// Begins an archive with these roots.
    pub fn new(mut out: W, roots: &[Cid]) -> io::Result<Self> {
        let header = Header { roots: roots.to_vec(), version: 1 };
        let header = codec::encode(&header);
        let mut length = Vec::new();
        put_varint(&mut length, header.len() as u64);
        out.write_all(&length)?;
        out.write_all(&header)?;
        Ok(Self { out })
    }

    /// Appends a block.
    pub fn put(&mut self, cid: &Cid, block: &[u8]) -> io::Result<()> {
        let cid = cid.to_bytes();
        let mut head = Vec::new();
        put_varint(&mut head, (cid.len() + block.len()) as u64);
        head.extend_from_slice(&cid);
        self.out.write_all(&head)?;
        self.out.write_all(block)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads an archive, block after block, each checked against its CID.
#[derive(Debug)]
pub struct CarReader<R> {
    input: Counted<R>,
    roots: Vec<Cid>,
}

impl<R: Read> CarReader<R> {
    /// Reads the header.
    pub fn new(input: R) -> Result<Self, CarError> {
        let mut input = Counted { input, read: 0 };
        let header = section(&mut input, MAX_HEADER_BYTES)?.ok_or(CarError::NotACar)?;
        let header: Header = codec::decode(&header).map_err(|_| CarError::NotACar)?;
        if header.version != 1 {
            return Err(CarError::NotACar);
        }
        Ok(Self { input, roots: header.roots })
    }

    /// What the archive is about.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// The next block; none at the end. A block whose hash is not sha2-256 is refused.
    pub fn next_block(&mut self) -> Result<Option<(Cid, Vec<u8>)>, CarError> {
        let Some(section) = section(&mut self.input, MAX_SECTION_BYTES)? else { return Ok(None) };
        let mut rest = section.as_slice();
        let cid = Cid::read_bytes(&mut rest).map_err(|_| CarError::NotACar)?;
        if !codec::names(&cid, rest) {
            return Err(CarError::OtherBlock(cid));
        }
        let from = section.len() - rest.len();
        Ok(Some((cid, section[from..].to_vec())))
    }
}

/// What is read, and how many bytes of it were.
#[derive(Debug)]
struct Counted<R> {
    input: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

/// An archive in a file, whose blocks are read when they are asked for.
#[derive(Debug)]
pub struct Archive {
    file: File,
    roots: Vec<Cid>,
    /// Where each block is, and its length.
    places: BTreeMap<Cid, (u64, u32)>,
}

impl Archive {
    /// Reads all of it once, and checks each block against its CID.
    pub fn open(path: &Path) -> Result<Self, CarError> {
        let file = File::open(path)?;
        let mut reader = CarReader::new(BufReader::new(file.try_clone()?))?;
        let mut places = BTreeMap::new();
        while let Some((cid, block)) = reader.next_block()? {
            let length = u32::try_from(block.len()).expect("a section has a limit");
            places.insert(cid, (reader.input.read - u64::from(length), length));
            if places.len() > MAX_INDEXED {
                return Err(CarError::TooMany);
            }
        }
        Ok(Self { file, roots: reader.roots, places })
    }

    /// What it is about.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// A block of it.
    pub fn block(&self, cid: &Cid) -> Result<Option<Vec<u8>>, CarError> {
        let Some((at, length)) = self.places.get(cid) else { return Ok(None) };
        let mut block = vec![0; *length as usize];
        self.file.read_exact_at(&mut block, *at)?;
        // The file may have changed since.
        if codec::names(cid, &block) { Ok(Some(block)) } else { Err(CarError::OtherBlock(*cid)) }
    }
}

/// What stands behind its length; none at the end.
fn section(input: &mut impl Read, max: u64) -> Result<Option<Vec<u8>>, CarError> {
    let mut length = Vec::new();
    loop {
        let mut byte = [0];
        match input.read(&mut byte) {
            Ok(0) if length.is_empty() => return Ok(None),
            Ok(0) => return Err(CarError::NotACar),
            Ok(_) => length.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        if byte[0] & 0x80 == 0 {
            break;
        }
        if length.len() == MAX_VARINT {
            return Err(CarError::NotACar);
        }
    }
    let (size, _) = varint(&length).map_err(|_| CarError::NotACar)?;
    if size > max {
        return Err(CarError::TooLarge { size, max });
    }
    let mut bytes = Vec::new();
    input.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(Some(bytes)) } else { Err(CarError::NotACar) }
}
