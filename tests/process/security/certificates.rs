//! Authorities and certificates for loopback.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// An authority, and its certificate as a file.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) file: PathBuf,
}

impl Authority {
    pub(super) fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let file = super::put(folder, &format!("{name}.pem"), params.self_signed(&key).unwrap().pem());
        Authority { issuer: Issuer::new(params, key), file }
    }

    /// Writes `NAME.pem` and `NAME.key`, with this URI among the names.
    pub(super) fn sign(&self, folder: &Path, name: &str, uri: Option<&str>) -> (PathBuf, PathBuf) {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        (
            super::put(folder, &format!("{name}.pem"), certificate),
            super::put(folder, &format!("{name}.key"), key.serialize_pem()),
        )
    }
}
