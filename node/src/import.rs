//! Archives of blocks that a node is started with.

use crate::cli::UserError;
use crate::content::car::CarReader;
use crate::storage::blocks::{BlockError, BlockStore};
use anyhow::{Result, anyhow};
use cid::Cid;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blocks that become durable together, and about their bytes.
const MAX_BATCH_BLOCKS: usize = 256;
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Pins all blocks of these CAR archives; what is there already is no matter.
pub async fn archives(paths: &[PathBuf], blocks: &Arc<BlockStore>) -> Result<()> {
    for path in paths {
        let (path, blocks) = (path.clone(), blocks.clone());
        tokio::task::spawn_blocking(move || archive(&path, &blocks))
            .await
            .map_err(|_| anyhow!("an archive was not imported; start the node again"))??;
    }
    Ok(())
}

fn archive(path: &Path, blocks: &BlockStore) -> Result<()> {
    let unreadable = |why: String| {
        UserError::input(format!("{} cannot be imported: {why}", path.display()))
            .hint("what was read before is kept; correct --import, or leave it out")
    };
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut reader = CarReader::new(BufReader::new(file)).map_err(|error| unreadable(error.to_string()))?;
    let (mut batch, mut bytes, mut count) = (Vec::new(), 0, 0u64);
    while let Some((cid, block)) = reader.next_block().map_err(|error| unreadable(error.to_string()))? {
        bytes += block.len();
        count += 1;
        batch.push((cid, block));
        if batch.len() == MAX_BATCH_BLOCKS || bytes >= MAX_BATCH_BYTES {
            pin(&std::mem::take(&mut batch), blocks).map_err(|error| told(error, &unreadable))?;
            bytes = 0;
        }
    }
    pin(&batch, blocks).map_err(|error| told(error, &unreadable))?;
    let roots: Vec<String> = reader.roots().iter().map(Cid::to_string).collect();
    tracing::info!("{count} blocks of {} are pinned, below {}", path.display(), roots.join(", "));
    Ok(())
}

fn pin(batch: &[(Cid, Vec<u8>)], blocks: &BlockStore) -> Result<(), BlockError> {
    let batch: Vec<(Cid, &[u8])> = batch.iter().map(|(cid, block)| (*cid, block.as_slice())).collect();
    blocks.put_pinned(&batch)
}

/// A disk that fails is not the archive's fault.
fn told(error: BlockError, unreadable: &impl Fn(String) -> UserError) -> anyhow::Error {
    match error {
        BlockError::Disk(error) => error.into(),
        error => unreadable(error.to_string()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::car::CarWriter;
    use swarm_protocol::codec::raw_cid;

    fn write(path: &Path, texts: &[String]) -> Vec<u8> {
        let mut writer = CarWriter::new(Vec::new(), &[raw_cid(texts[0].as_bytes())]).unwrap();
        texts.iter().for_each(|text| writer.put(&raw_cid(text.as_bytes()), text.as_bytes()).unwrap());
        let bytes = writer.finish().unwrap();
        std::fs::write(path, &bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn an_archive_is_pinned_whole_and_again_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool.car");
        let texts: Vec<String> = (0..1000).map(|n| format!("block {n}")).collect();
        write(&path, &texts);
        let blocks = Arc::new(BlockStore::in_memory(1 << 20).unwrap());
        archives(&[path.clone(), path], &blocks).await.unwrap();
        assert!(texts.iter().all(|text| blocks.is_pinned(&raw_cid(text.as_bytes()))));
    }

    #[tokio::test]
    async fn what_cannot_be_imported_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool.car");
        let bytes = write(&path, &["one".to_owned(), "two".to_owned()]);
        let blocks = Arc::new(BlockStore::in_memory(4).unwrap());
        let refused = async || archives(std::slice::from_ref(&path), &blocks).await.unwrap_err().to_string();
        assert!(refused().await.contains("no room"), "{}", refused().await);
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(refused().await.contains("not a CAR"), "{}", refused().await);
        std::fs::remove_file(&path).unwrap();
        assert!(refused().await.contains("No such file"), "{}", refused().await);
    }
}
