//! What is common to the tests: files in a folder of their own, and certificates of authorities made for the test.

mod files;
mod tokens;
mod wires;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_proto::access::Authenticator as _;
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tonic::codegen::http::{Extensions, HeaderMap, HeaderValue};

use crate::audit::Recorder;
use crate::tls::Pair;
use crate::{Callers, Metrics};

/// A folder that goes with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the file whole, as a new one in the place of the old one.
    fn put(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let beside = self.at("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.at(name)).unwrap();
        self.at(name)
    }
}

/// An authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `NAME.pem` and `NAME.key` for loopback, with this URI.
    fn sign(&self, folder: &Folder, name: &str, uri: Option<&str>) -> Pair {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair {
            cert_file: folder.put(&format!("{name}.pem"), certificate.pem()),
            key_file: folder.put(&format!("{name}.key"), key.serialize_pem()),
        }
    }
}

fn metrics() -> Metrics {
    Metrics::new().unwrap()
}

fn callers() -> Callers {
    let recorder = Recorder::new(None, metrics());
    Callers { keys: None, tokens: None, needs_certificate: false, recorder }
}

/// The name of who calls with this header, or why nobody does.
fn asked(callers: &Callers, header: Option<(&'static str, &str)>) -> Result<String, String> {
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = header {
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    }
    let caller = callers.caller(&headers, &Extensions::new());
    caller.map(|caller| caller.name.clone()).map_err(|why| why.to_string())
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn a_secret_does_not_show_itself() {
    let secret = crate::Secret::new("canary-canary".to_owned());
    let channel = tonic::transport::Endpoint::from_static("http://h").connect_lazy();
    let keyed = crate::Keyed::with(channel, &secret);
    assert!(!format!("{secret:?} {:?} {keyed:?}", Arc::new(secret.clone())).contains("canary"));
    assert!(
        secret.is(b"canary-canary")
            && !secret.is(b"canary-canarx")
            && !secret.is(b"canary")
            && !secret.is(b"")
    );
    let drawn = [crate::Secret::random(32).unwrap(), crate::Secret::random(32).unwrap()];
    assert!(drawn[0].expose().len() == 64 && drawn[0].expose() != drawn[1].expose());
}
