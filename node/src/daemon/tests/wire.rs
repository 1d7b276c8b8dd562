//! What the daemon that the tests install lacks, against Kubo's documented wire format
//! (<https://docs.ipfs.tech/reference/kubo/rpc/>): NOT tested against Kubo itself.

use super::server::{answer, serve};
use crate::content::import;
use crate::daemon::kubo::Kubo;
use crate::storage::blocks::MAX_BLOCK_BYTES;
use crate::storage::content_store::{ContentStore, Reach};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use swarm_protocol::codec::raw_cid;

/// `block/put` takes `cid-codec` and refuses `format` beside it; `offline` is known to every call.
#[tokio::test]
async fn blocks_are_put_as_the_documentation_has_it() {
    let (root, file) = import(&vec![1; MAX_BLOCK_BYTES + 1]);
    let node = file.iter().find(|(cid, _)| *cid == root).unwrap().clone();
    let (asked, content) = (Arc::new(Mutex::new(Vec::new())), node.1.clone());
    let log = asked.clone();
    let server = serve(move |request| {
        let is_there = request.body.windows(content.len()).any(|bytes| bytes == content);
        log.lock().unwrap().push((request.line.clone(), is_there));
        if request.line.contains("/version") {
            return answer(
                "200 OK",
                r#"{"Version":"0.32.1","Commit":"","Repo":"16","System":"amd64/linux","Golang":"go1.23"}"#,
            );
        }
        if request.line.contains("/block/put") {
            return answer("200 OK", &format!("{{\"Key\":\"{root}\",\"Size\":{}}}\n", content.len()));
        }
        if request.line.contains("/pin/add") {
            return answer("200 OK", &format!("{{\"Pins\":[\"{root}\"]}}\n"));
        }
        let said = r#"{"Message":"block was not found locally (offline): ipld: could not find it","Code":0,"Type":"error"}"#;
        answer("500 Internal Server Error", said)
    });
    let server = server.await;
    let (kubo, version) = Kubo::open(&server.url).await.unwrap();
    assert_eq!(version, "0.32.1");
    kubo.put_pinned(&[node]).await.unwrap();
    let absent = raw_cid(b"absent");
    assert_eq!(kubo.get(&absent, Reach::Local, Duration::from_secs(4)).await.unwrap(), None);
    let expected = [
        ("POST /api/v0/version? HTTP/1.1".to_owned(), false),
        ("POST /api/v0/block/put?cid-codec=dag-pb&mhtype=sha2-256&mhlen=32 HTTP/1.1".to_owned(), true),
        (format!("POST /api/v0/pin/add?arg={root}&recursive=false HTTP/1.1"), false),
        (format!("POST /api/v0/block/get?arg={absent}&offline=true&timeout=3000ms HTTP/1.1"), false),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
}
