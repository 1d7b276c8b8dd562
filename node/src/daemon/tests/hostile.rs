//! Daemons that lie, and what is none.

use super::server::{Reply, Server, answer, serve};
use crate::daemon::kubo::Kubo;
use crate::storage::content_store::{ContentStore, Reach, StoreError};
use cid::Cid;
use std::time::Duration;
use swarm_protocol::codec::raw_cid;
use tokio::time::{Instant, timeout};

const VERSION: &str = r#"{"Version":"0.32.1","Commit":"","Repo":"16"}"#;
/// Far below the time limits of the calls: what fails because of them fails for another reason than it should.
const AT_ONCE: Duration = Duration::from_secs(5);

fn block() -> (Cid, Vec<u8>) {
    (raw_cid(b"a block"), b"a block".to_vec())
}

/// A daemon that says its version and answers everything else so.
async fn daemon(reply: Reply) -> (Server, Kubo) {
    let server = serve(move |asked| match asked.line.contains("/version") {
        true => answer("200 OK", VERSION),
        false => reply.clone(),
    });
    let server = server.await;
    let (kubo, version) = Kubo::open(&server.url).await.unwrap();
    assert_eq!(version, "0.32.1");
    (server, kubo)
}

/// What all calls give against a daemon that answers so, each at once.
async fn all_calls(reply: Reply) -> Vec<StoreError> {
    let (_server, kubo) = daemon(reply.clone()).await;
    let (cid, _) = block();
    let within = Duration::from_secs(60);
    let mut errors = Vec::new();
    let calls = async {
        errors.extend(kubo.put_pinned(&[block()]).await.err());
        errors.extend(kubo.pinned(&mut |_| {}).await.err());
        errors.extend(kubo.show(&cid).await.err());
        match kubo.get(&cid, Reach::Local, within).await {
            Ok(block) => assert_eq!(block, None, "{reply:?}"),
            Err(error) => errors.push(error),
        }
    };
    timeout(AT_ONCE, calls).await.unwrap_or_else(|_| panic!("not refused at once: {reply:?}"));
    errors
}

#[tokio::test]
async fn wrong_bytes_are_never_taken_for_a_block() {
    let (_server, kubo) = daemon(answer("200 OK", "another")).await;
    let got = kubo.get(&block().0, Reach::Network, AT_ONCE).await;
    assert!(matches!(got, Err(StoreError::Block(_))), "{got:?}");
    let (_server, kubo) = daemon(answer("200 OK", "a block")).await;
    assert_eq!(kubo.get(&block().0, Reach::Network, AT_ONCE).await.unwrap(), Some(block().1));
}

#[tokio::test]
async fn endless_and_broken_answers_are_left_at_once() {
    let chunk = [b"10000\r\n".as_slice(), &[b'{'; 65_536], b"\r\n"].concat();
    let chunked =
        |status: &str| format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    let endless = |status: &str| Reply::Endless(chunked(status), chunk.clone());
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2).into_bytes();
    for reply in [
        endless("200 OK"),
        endless("500 Internal Server Error"),
        Reply::Endless(long, vec![b'['; 65_536]),
        Reply::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-More: and more\r\n".repeat(100)),
        Reply::Endless(Vec::new(), b"x".repeat(4096)),
        Reply::Bytes(Vec::new()),
        Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec()),
    ] {
        let errors = all_calls(reply.clone()).await;
        assert_eq!(errors.len(), 4, "{errors:?} from {reply:?}");
    }
}

#[tokio::test]
async fn answers_that_mean_nothing_are_refused() {
    let nested = "[".repeat(60_000);
    for body in
        ["", "{", "null", "[]", "\u{0}", "<html>Welcome</html>", "{\"Key\":5}", "{\"Hash\":\"\"}", &nested]
    {
        let errors = all_calls(answer("200 OK", body)).await;
        let is_refused = |error: &StoreError| !matches!(error, StoreError::Away(_));
        assert!(errors.iter().all(is_refused), "{errors:?} from {body:.40}");
        assert!(errors.len() >= 3, "{errors:?} from {body:.40}");
    }
    let said =
        all_calls(answer("500 Error", r#"{"Message":"no\u001b[2J space","Code":0,"Type":"error"}"#)).await;
    let shown: Vec<String> = said.iter().map(ToString::to_string).collect();
    assert!(shown.iter().all(|text| text == "the IPFS daemon says: no [2J space"), "{shown:?}");
}

#[tokio::test]
async fn another_cid_or_no_pin_is_no_success() {
    let other = raw_cid(b"another");
    let key = format!(r#"{{"Key":"{other}","Size":7}}"#);
    let (_server, kubo) = daemon(answer("200 OK", &key)).await;
    let put = kubo.put_pinned(&[block()]).await.unwrap_err().to_string();
    assert!(put.contains("another CID"), "{put}");
    let both = format!(r#"{{"Key":"{}","Size":7,"Pins":["{other}"]}}"#, block().0);
    let (_server, kubo) = daemon(answer("200 OK", &both)).await;
    let put = kubo.put_pinned(&[block()]).await.unwrap_err().to_string();
    assert!(put.contains("did not pin"), "{put}");
}

#[tokio::test]
async fn whoever_does_not_answer_is_not_waited_for_longer_than_said() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\na blo".to_vec();
    for reply in [Reply::Silence(Vec::new()), Reply::Silence(head)] {
        let (_server, kubo) = daemon(reply).await;
        let begun = Instant::now();
        let got = kubo.get(&block().0, Reach::Local, Duration::from_millis(300)).await;
        assert!(matches!(got, Err(StoreError::Away(_))), "{got:?}");
        assert!(begun.elapsed() < AT_ONCE);
    }
}

#[tokio::test]
async fn a_list_of_pins_is_read_line_by_line() {
    let cid = block().0;
    let line = format!("{{\"Cid\":\"{cid}\",\"Type\":\"direct\"}}\n");
    for (list, expected) in [
        (String::new(), Ok(0)),
        (line.repeat(3), Ok(3)),
        (format!("{line}\n\n{line}"), Ok(2)),
        (format!("{line}{{\"Cid\":\"no cid\"}}\n{line}"), Err("cannot be read")),
        (format!("{line}{{\"Message\":\"it broke\",\"Type\":\"error\"}}\n"), Err("cannot be read")),
        (format!("{line}{}", "x".repeat(5000)), Err("too long")),
    ] {
        let (_server, kubo) = daemon(answer("200 OK", &list)).await;
        let mut count = 0;
        let listed =
            kubo.pinned(&mut |_| count += 1).await.map(|()| count).map_err(|error| error.to_string());
        match expected {
            Ok(expected) => assert_eq!(listed, Ok(expected)),
            Err(why) => assert!(listed.as_ref().unwrap_err().contains(why), "{listed:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_no_daemon_is_told_at_once() {
    let gateway = serve(|_| answer("405 Method Not Allowed", "only GET and HEAD\u{7}")).await;
    let page = serve(|_| answer("200 OK", "<html>")).await;
    for (url, expected) in [
        (gateway.url.as_str(), "/version is answered with 405 Method Not Allowed only GET and HEAD"),
        (page.url.as_str(), "is not that of an IPFS daemon"),
        ("http://127.0.0.1:1", "Connection refused"),
    ] {
        let told = Kubo::open(url).await.unwrap_err().to_string();
        assert!(told.contains(expected) && !told.contains(char::is_control), "{told}");
    }
}
