//! The service of records as those serve it who pass records on: encoded, as they came.
//!
//! The same methods and the same messages on the wire as [`v1::records_server`]. Where that has a
//! [`Record`](v1::Record), there are its bytes here.

use bytes::Bytes;

use crate::v1;

/// The service.
#[allow(missing_docs, clippy::all)]
pub mod records_server {
    mod made {
        include!(concat!(env!("OUT_DIR"), "/passing/flotilla.v1.rs"));
    }
    pub use made::records_server::*;
}

/// [`v1::GetResponse`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetResponse {
    /// Those found, in the order of the keys asked for.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub records: Vec<Bytes>,
    /// Which partitions answered.
    #[prost(message, optional, tag = "2")]
    pub coverage: Option<v1::Coverage>,
}

/// [`v1::ScanResponse`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScanResponse {
    /// The records of the page, in its order.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub items: Vec<Bytes>,
    /// Where the next page begins; empty: this is the last.
    #[prost(string, tag = "2")]
    pub next: String,
    /// Which partitions answered.
    #[prost(message, optional, tag = "3")]
    pub coverage: Option<v1::Coverage>,
    /// Whether a partition shows a newer state than on the page before.
    #[prost(bool, tag = "4")]
    pub changed: bool,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn coverage() -> Option<v1::Coverage> {
        Some(v1::Coverage { partitions_asked: 3, ..Default::default() })
    }

    #[test]
    fn what_is_passed_on_is_what_the_service_says() {
        let record = |number| v1::Record {
            key: Some(v1::Key { kind: Some(v1::key::Kind::Number(number)) }),
            version: 3 * number,
            ..Default::default()
        };
        let records: Vec<v1::Record> = [0, 7, 300].map(record).into();
        let bytes: Vec<Bytes> = records.iter().map(|record| record.encode_to_vec().into()).collect();
        let got = GetResponse { records: bytes.clone(), coverage: coverage() };
        let meant = v1::GetResponse { records: records.clone(), coverage: coverage() };
        assert_eq!(v1::GetResponse::decode(&*got.encode_to_vec()).unwrap(), meant);
        assert_eq!(GetResponse::decode(&*meant.encode_to_vec()).unwrap(), got);
        let page = ScanResponse { items: bytes, next: "x".into(), coverage: coverage(), changed: true };
        let meant =
            v1::ScanResponse { items: records, next: "x".into(), coverage: coverage(), changed: true };
        assert_eq!(v1::ScanResponse::decode(&*page.encode_to_vec()).unwrap(), meant);
        assert_eq!(ScanResponse::decode(&*meant.encode_to_vec()).unwrap(), page);
    }
}
