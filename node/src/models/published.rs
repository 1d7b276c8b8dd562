//! Installed models for other nodes: a UnixFS folder of manifest and files, whose large blocks stay where they are, in the
//! files themselves, and are read when they are asked for.

use super::installed::MANIFEST_FILE;
use crate::content::{CHUNK_BYTES, Child, Writer, encode_folder, import};
use crate::network::BlockSource;
use crate::storage::disk::{DiskError, write_atomic};
use anyhow::{Result, ensure};
use cid::Cid;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use swarm_inference::{MAX_MANIFEST_BYTES, MAX_MODEL_FILES, MAX_MODEL_SHARDS, Manifest};
use swarm_protocol::codec;

/// In a model's folder: which blocks its files consist of.
pub const INDEX_FILE: &str = "blocks.cbor";
/// The longest index: 33 bytes for each block of the largest model.
const MAX_INDEX_BYTES: u64 = 64 << 20;
const DIGEST_BYTES: usize = 32;

/// The blocks of a model's files, in the order of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    files: Vec<FileBlocks>,
}

/// The blocks of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBlocks {
    file: String,
    length: u64,
    /// Bytes of all its blocks.
    size: u64,
    root: Cid,
    /// The digests of its leaves, one after the other.
    leaves: ByteBuf,
    /// The nodes above the leaves.
    nodes: Vec<ByteBuf>,
}

/// Cuts a file into blocks as it comes, and remembers which.
#[derive(Debug, Default)]
pub struct Indexer {
    writer: Writer,
    found: Blocks,
}

#[derive(Debug, Default)]
struct Blocks {
    leaves: Vec<u8>,
    nodes: Vec<ByteBuf>,
}

impl Blocks {
    fn take(&mut self, cid: Cid, block: Vec<u8>) {
        match codec::is_dag_pb(&cid) {
            true => self.nodes.push(ByteBuf::from(block)),
            false => self.leaves.extend_from_slice(cid.hash().digest()),
        }
    }
}

impl Indexer {
    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        let found = &mut self.found;
        let Ok(()) = self.writer.push(bytes, &mut |cid, block| {
            found.take(cid, block);
            Ok::<(), Infallible>(())
        });
    }

    /// The blocks of a file that has come whole.
    pub fn finish(mut self, file: &str) -> FileBlocks {
        let found = &mut self.found;
        let Ok(Child { cid: root, length, size }) = self.writer.finish(&mut |cid, block| {
            found.take(cid, block);
            Ok::<(), Infallible>(())
        });
        let Blocks { leaves, nodes } = self.found;
        FileBlocks { file: file.to_owned(), length, size, root, leaves: ByteBuf::from(leaves), nodes }
    }
}

impl Index {
    /// That of these files.
    pub fn of(files: Vec<FileBlocks>) -> Self {
        Self { files }
    }

    /// Writes it into a model's folder.
    pub fn write(&self, folder: &Path) -> Result<(), DiskError> {
        write_atomic(&folder.join(INDEX_FILE), &codec::encode(self))
    }

    fn read(folder: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(folder.join(INDEX_FILE))?.take(MAX_INDEX_BYTES).read_to_end(&mut bytes)?;
        Ok(codec::decode(&bytes)?)
    }

    /// Whether it is that of these files.
    fn describes(&self, manifest: &Manifest) -> bool {
        let stated = manifest.all_files().map(|(file, size, _)| (file, size));
        let found = self.files.iter().map(|file| (file.file.as_str(), file.length));
        self.files.len() <= 1 + MAX_MODEL_SHARDS + MAX_MODEL_FILES
            && found.eq(stated)
            && self.files.iter().all(|file| {
                let leaves = file.length.div_ceil(CHUNK_BYTES as u64).max(1);
                file.leaves.len() as u64 == leaves * DIGEST_BYTES as u64
            })
    }
}

/// Where the bytes of a block are.
#[derive(Debug)]
enum Place {
    Here(Vec<u8>),
    InFile { file: usize, at: u64, length: usize },
}

/// An installed model as blocks.
#[derive(Debug)]
pub struct Published {
    root: Cid,
    files: Vec<PathBuf>,
    places: HashMap<Cid, Place>,
}

impl Published {
    /// That in this folder, with the manifest as it is now.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut json = Vec::new();
        File::open(folder.join(MANIFEST_FILE))?.take(MAX_MANIFEST_BYTES).read_to_end(&mut json)?;
        let manifest = Manifest::from_json(std::str::from_utf8(&json)?)?;
        let index = Index::read(folder)?;
        ensure!(index.describes(&manifest), "{INDEX_FILE} is not that of the manifest's files");
        let mut published = Self { root: Cid::default(), files: Vec::new(), places: HashMap::new() };
        let mut links = vec![(MANIFEST_FILE, published.add_manifest(&json))];
        for file in &index.files {
            published.add(folder, file);
            let FileBlocks { root, length, size, .. } = file;
            links.push((file.file.as_str(), Child { cid: *root, length: *length, size: *size }));
        }
        links.sort_unstable_by_key(|(name, _)| *name);
        let block = encode_folder(&links);
        published.root = codec::dag_pb_cid(&block);
        published.places.insert(published.root, Place::Here(block));
        Ok(published)
    }

    /// The CID of the folder.
    pub fn root(&self) -> Cid {
        self.root
    }

    fn add_manifest(&mut self, json: &[u8]) -> Child {
        let (cid, blocks) = import(json);
        self.places.extend(blocks.into_iter().map(|(cid, block)| (cid, Place::Here(block))));
        Child { cid, length: json.len() as u64, size: json.len() as u64 }
    }

    fn add(&mut self, folder: &Path, blocks: &FileBlocks) {
        let file = self.files.len();
        self.files.push(folder.join(&blocks.file));
        let mut left = blocks.length;
        for (number, digest) in (0u64..).zip(blocks.leaves.chunks_exact(DIGEST_BYTES)) {
            let length = left.min(CHUNK_BYTES as u64);
            left -= length;
            let digest: [u8; DIGEST_BYTES] = digest.try_into().expect("a piece of this length");
            let place = Place::InFile { file, at: number * CHUNK_BYTES as u64, length: length as usize };
            self.places.insert(codec::raw_cid_of(digest), place);
        }
        let nodes = blocks.nodes.iter().map(|node| (codec::dag_pb_cid(node), Place::Here(node.to_vec())));
        self.places.extend(nodes);
    }

    fn block(&self, cid: &Cid) -> Option<Vec<u8>> {
        match self.places.get(cid)? {
            Place::Here(block) => Some(block.clone()),
            Place::InFile { file, at, length } => {
                let mut block = vec![0; *length];
                File::open(self.files.get(*file)?).ok()?.read_exact_at(&mut block, *at).ok()?;
                // The file may have changed since.
                codec::names(cid, &block).then_some(block)
            }
        }
    }
}

/// What peers get: installed models that run here, and what lies beneath.
#[derive(Debug)]
pub struct Shelf {
    models: Vec<Published>,
    beneath: Arc<dyn BlockSource>,
}

impl Shelf {
    /// The models of these manifests that were pulled, before all else.
    pub fn over(beneath: Arc<dyn BlockSource>, manifests: &[PathBuf]) -> Arc<dyn BlockSource> {
        let folders = manifests.iter().filter_map(|path| path.parent());
        let pulled = folders.filter(|folder| folder.join(INDEX_FILE).is_file());
        let open = |folder: &Path| match Published::open(folder) {
            Ok(model) => {
                tracing::info!("{} can be had from here: models pull {}", folder.display(), model.root());
                Some(model)
            }
            Err(error) => {
                tracing::warn!("{} is not given to others: {error:#}", folder.display());
                None
            }
        };
        let models: Vec<_> = pulled.filter_map(open).collect();
        if models.is_empty() { beneath } else { Arc::new(Self { models, beneath }) }
    }
}

impl BlockSource for Shelf {
    fn block(&self, cid: &Cid) -> Option<Vec<u8>> {
        self.models.iter().find_map(|model| model.block(cid)).or_else(|| self.beneath.block(cid))
    }

    fn has(&self, cid: &Cid) -> bool {
        self.models.iter().any(|model| model.places.contains_key(cid)) || self.beneath.has(cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Reader;
    use crate::storage::blocks::BlockStore;
    use swarm_inference::queenbee;

    fn install(folder: &Path, content: &[u8]) -> FileBlocks {
        let mut indexer = Indexer::default();
        content.chunks(100_000).for_each(|piece| indexer.push(piece));
        let blocks = indexer.finish("weights.gguf");
        std::fs::write(folder.join("weights.gguf"), content).unwrap();
        Index::of(vec![blocks.clone()]).write(folder).unwrap();
        let manifest = Manifest {
            name: "bee".into(),
            file: "weights.gguf".into(),
            size: content.len() as u64,
            ..queenbee().manifest
        };
        std::fs::write(folder.join(MANIFEST_FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
        blocks
    }

    #[test]
    fn a_file_is_read_back_from_its_blocks_and_one_that_has_changed_is_not_given() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..(2 * CHUNK_BYTES + 77)).map(|n| (n / 3) as u8).collect();
        let blocks = install(folder.path(), &content);
        assert_eq!(blocks.root, import(&content).0, "cut as anybody else cuts it");
        let store = Arc::new(BlockStore::in_memory(1 << 20).unwrap());
        let shelf = Shelf::over(store, &[folder.path().join(MANIFEST_FILE)]);
        let root = Published::open(folder.path()).unwrap().root();
        let names = crate::content::decode_folder(&shelf.block(&root).unwrap(), 8).unwrap().links;
        assert_eq!(
            names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["manifest.json", "weights.gguf"]
        );
        let mut reader = Reader::new(blocks.root, content.len() as u64).unwrap();
        let mut read = Vec::new();
        while let Some(cid) = reader.wanted() {
            assert!(shelf.has(&cid));
            read.extend_from_slice(reader.supply(&shelf.block(&cid).unwrap()).unwrap());
        }
        assert_eq!(read, content);

        let leaf = codec::raw_cid(&content[..CHUNK_BYTES]);
        assert!(shelf.block(&leaf).is_some());
        std::fs::write(folder.path().join("weights.gguf"), vec![1; content.len()]).unwrap();
        assert!(shelf.block(&leaf).is_none());
    }

    #[test]
    fn an_index_of_other_files_is_refused_and_a_changed_manifest_has_another_cid() {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path(), &[7; 5000]);
        let path = folder.path().join(MANIFEST_FILE);
        let root = Published::open(folder.path()).unwrap().root();
        let json = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, json.replace("\"bee\"", "\"wasp\"")).unwrap();
        assert_ne!(Published::open(folder.path()).unwrap().root(), root);
        std::fs::write(&path, json.replace("5000", "5001")).unwrap();
        assert!(Published::open(folder.path()).is_err());
    }
}
