//! Signed tokens: who calls is what the token says, if its signature, times, audience and issuer hold.
//!
//! HS256, RS256 and ES256, each only with its own configured key: a token names its algorithm, and the key follows from the
//! algorithm, so that no public key can be taken for a shared secret. Whatever else a token names (`none`, another
//! algorithm, a key of its own) is refused. `exp` and the audience must be there, `nbf` is kept to, the issuer is compared if
//! one is configured. Claims: `sub`, `role`, `collections` (all, if it is not there), `tenant`,
//! `class`, `jti`.
//!
//! The library parses and validates; the signatures are checked by *ring*, which TLS uses, too.

use std::path::PathBuf;
use std::sync::Arc;

use flotilla_proto::access::Caller;
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::credentials::{GrantRow, Keys, belongs};
use crate::{Fault, Secret, Watched};

/// Bytes of a token, at most.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Bytes of the secret of HS256, at least: as many as the hash has.
const SECRET_BYTES_MIN: usize = 32;
/// Seconds by which clocks may differ.
const LEEWAY: u64 = 30;

/// What tokens are checked by.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The shared secret of HS256.
    pub hs_secret_file: Option<PathBuf>,
    /// The public key of RS256, PEM.
    pub rs_public_key_file: Option<PathBuf>,
    /// The public key of ES256, PEM.
    pub es_public_key_file: Option<PathBuf>,
    /// Whom tokens must be meant for.
    pub audience: String,
    /// Who must have made them; empty: anybody who has the key.
    pub issuer: String,
}

impl Options {
    /// Whether there is a key to check tokens by.
    pub fn is_wanted(&self) -> bool {
        self.hs_secret_file.is_some()
            || self.rs_public_key_file.is_some()
            || self.es_public_key_file.is_some()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    role: String,
    #[serde(default)]
    collections: Option<Vec<String>>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    class: Option<String>,
    #[serde(default)]
    jti: Option<String>,
}

/// Checks tokens.
#[derive(Debug)]
pub struct Tokens {
    keys: Arc<Watched<Vec<(Algorithm, DecodingKey)>>>,
    audience: String,
    issuer: String,
}

impl Tokens {
    /// Reads the keys.
    ///
    /// # Errors
    /// If one is damaged, or no audience is named.
    pub fn open(options: &Options) -> Result<Tokens, Fault> {
        if options.audience.is_empty() {
            let reason = "is missing: a token that is meant for another service must not hold here";
            return Err(Fault { file: "security.jwt.audience".to_owned(), reason: reason.to_owned() });
        }
        // Another provider, set by whoever else uses the library in this process, would do as well.
        let _ = PROVIDER.install_default();
        let given = [
            (Algorithm::HS256, &options.hs_secret_file),
            (Algorithm::RS256, &options.rs_public_key_file),
            (Algorithm::ES256, &options.es_public_key_file),
        ];
        let (algorithms, files): (Vec<Algorithm>, Vec<PathBuf>) =
            given.into_iter().filter_map(|(algorithm, file)| Some((algorithm, file.clone()?))).unzip();
        let keys = Watched::open("tokens", files, move |bytes| {
            algorithms
                .iter()
                .zip(bytes)
                .map(|(algorithm, bytes)| Ok((*algorithm, key(*algorithm, bytes)?)))
                .collect()
        })?;
        Ok(Tokens { keys, audience: options.audience.clone(), issuer: options.issuer.clone() })
    }

    /// What to look at for changes.
    pub fn watched(&self) -> Arc<dyn crate::watched::Refresh> {
        self.keys.clone()
    }

    /// Who the token says that calls; `keys` knows which are revoked.
    ///
    /// # Errors
    /// Why it does not hold; nothing of what it says.
    pub fn find(&self, token: &str, revoked: &Keys) -> Result<Arc<Caller>, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!("the token is longer than {TOKEN_BYTES_MAX} bytes: {}", token.len()));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| "the token is none".to_owned())?;
        if header.crit.is_some() {
            return Err("the token names headers that must be understood and are not".to_owned());
        }
        let keys = self.keys.get();
        let key = keys.iter().find(|(algorithm, _)| *algorithm == header.alg);
        let (algorithm, key) = key.ok_or_else(|| "there is no key for the token's algorithm".to_owned())?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &self.validation(*algorithm));
        let claims = claims.map_err(|why| told(why.kind()).to_owned())?.claims;
        if claims.jti.as_ref().is_some_and(|id| revoked.is_revoked(id)) {
            return Err("the token is revoked".to_owned());
        }
        let grant = GrantRow { role: claims.role, collections: claims.collections }.grant();
        let grant = grant.map_err(|why| format!("the token's {why}"))?;
        if claims.sub.is_empty() || claims.sub.len() > crate::credentials::NAME_BYTES_MAX {
            return Err("the token's sub is missing or too long".to_owned());
        }
        let name = format!("token of {}", claims.sub);
        let class = belongs(claims.tenant.as_deref(), claims.class.as_deref());
        let class = class.map_err(|why| format!("the token's {why}"))?;
        Ok(Arc::new(Caller { name, tenant: claims.tenant, class, grants: vec![grant] }))
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (true, true, true);
        validation.set_audience(&[&self.audience]);
        let mut required = vec!["exp", "aud"];
        if !self.issuer.is_empty() {
            validation.set_issuer(&[&self.issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

fn told(why: &ErrorKind) -> &'static str {
    match why {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token does not hold yet",
        ErrorKind::InvalidAudience => "the token is meant for another audience",
        ErrorKind::InvalidIssuer => "the token is of another issuer",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, aud or iss",
        ErrorKind::InvalidSignature => "the token's signature does not hold",
        _ => "the token is none",
    }
}

fn key(algorithm: Algorithm, bytes: &[u8]) -> Result<DecodingKey, String> {
    if algorithm == Algorithm::HS256 {
        let secret = Secret::lines(bytes)?.into_iter().next().ok_or("holds no secret")?;
        if secret.expose().len() < SECRET_BYTES_MIN {
            return Err(format!(
                "must hold at least {SECRET_BYTES_MIN} bytes, got {}",
                secret.expose().len()
            ));
        }
        return Ok(DecodingKey::from_secret(secret.expose().as_bytes()));
    }
    let der = SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| "holds no PEM block PUBLIC KEY")?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| "its PUBLIC KEY is damaged")?;
    let raw = &info.subject_public_key.data;
    let kind = info.algorithm.algorithm.to_id_string();
    match (algorithm, kind.as_str()) {
        (Algorithm::RS256, "1.2.840.113549.1.1.1") => Ok(DecodingKey::from_rsa_der(raw)),
        // An uncompressed point of P-256.
        (Algorithm::ES256, "1.2.840.10045.2.1") if raw.len() == 65 => Ok(DecodingKey::from_ec_der(raw)),
        _ => Err(format!("its PUBLIC KEY is none of {algorithm:?}")),
    }
}

/// Signatures by *ring*. Nothing is signed here, and keys in tokens are not looked at.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(Error::from(ErrorKind::InvalidAlgorithm)),
    verifier_factory: |algorithm, key| {
        let key = key.try_get_as_bytes()?.to_vec();
        Ok(Box::new(Signed { algorithm: *algorithm, key }))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

struct Signed {
    algorithm: Algorithm,
    key: Vec<u8>,
}

impl signature::Verifier<Vec<u8>> for Signed {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
        let held = match self.algorithm {
            Algorithm::HS256 => {
                ring::hmac::verify(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.key), message, signed)
            }
            Algorithm::RS256 => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.key).verify(message, signed)
            }
            Algorithm::ES256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.key).verify(message, signed)
            }
            _ => Err(ring::error::Unspecified),
        };
        held.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Signed {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
