use super::Reader;
use anyhow::{Result, anyhow};
use cid::Cid;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;

/// Blocks of one file that are asked for at once, and held at most; one more for each level below the first, as what is
/// wanted there was not known before.
pub const MAX_AHEAD: usize = 8;

/// Reads a file whose blocks `fetch` brings, some ahead of others, each as long as it is needed once; `take` gets each block
/// and the bytes of the file in it, in the order of the file. Says how many bytes the file has.
pub async fn read_ahead<F: Future<Output = Result<Vec<u8>>>>(
    mut reader: Reader,
    fetch: impl Fn(Cid) -> F,
    mut take: impl FnMut(&Cid, &[u8], &[u8]) -> Result<()>,
) -> Result<u64> {
    let (mut coming, mut total) = (FuturesUnordered::new(), 0);
    let mut asked: BTreeMap<Cid, Option<Vec<u8>>> = BTreeMap::new();
    while let Some(wanted) = reader.wanted() {
        for cid in reader.ahead(MAX_AHEAD) {
            if !asked.contains_key(&cid) && (asked.len() < MAX_AHEAD || cid == wanted) {
                asked.insert(cid, None);
                let fetched = fetch(cid);
                coming.push(async move { (cid, fetched.await) });
            }
        }
        if let Some(Some(block)) = asked.get(&wanted) {
            let content = reader.supply(block)?;
            take(&wanted, block, content)?;
            total += content.len() as u64;
            asked.retain(|cid, _| reader.needs(cid));
        } else {
            let (cid, fetched): (Cid, Result<Vec<u8>>) =
                coming.next().await.ok_or_else(|| anyhow!("a block was not asked for"))?;
            asked.insert(cid, Some(fetched?));
        }
    }
    Ok(total)
}
