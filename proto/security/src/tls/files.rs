//! From PEM files to what *rustls* takes.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

type Bytes = Zeroizing<Vec<u8>>;

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err("a file of certificates holds none, or is damaged".to_owned()),
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|why| format!("an authority's certificate: {why}"))?;
    }
    Ok(store)
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| "a key file holds no PEM key, or is damaged".to_owned())
}

/// Out of certificates, their key, and the authorities of clients if these are asked.
pub(super) fn server(files: &[Bytes], is_required: bool) -> Result<ServerConfig, String> {
    let [own, secret, rest @ ..] = files else { return Err("files are missing".to_owned()) };
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|why| why.to_string())?;
    let builder = match rest.first() {
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(pem)?), provider);
            let verifier = if is_required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|why| why.to_string())?)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(certificates(own)?, key(secret)?);
    let mut config = config.map_err(|why| format!("the certificate and its key: {why}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Out of the authorities of servers, and an own certificate with its key if there is one.
pub(super) fn client(files: &[Bytes]) -> Result<ClientConfig, String> {
    let [trusted, own @ ..] = files else { return Err("files are missing".to_owned()) };
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|why| why.to_string())?;
    let builder = builder.with_root_certificates(authorities(trusted)?);
    let mut config = match own {
        [own, secret] => {
            let config = builder.with_client_auth_cert(certificates(own)?, key(secret)?);
            config.map_err(|why| format!("the certificate and its key: {why}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
