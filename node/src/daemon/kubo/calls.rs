//! The calls of Kubo's RPC that take what the library's own requests have no parameters for.

use ipfs_api_backend_hyper::request::ApiRequest;
use serde::Serialize;

/// In this order; some repeat.
pub type Parameters = Vec<(&'static str, String)>;

macro_rules! calls {
    ($($name:ident $path:literal)*) => {$(
        #[derive(Debug, Serialize)]
        pub struct $name(pub Parameters);

        impl ApiRequest for $name {
            const PATH: &'static str = $path;
        }
    )*};
}

calls! {
    BlockPut "/block/put"
    BlockGet "/block/get"
    PinAdd "/pin/add"
    PinRm "/pin/rm"
    PinLs "/pin/ls"
}
