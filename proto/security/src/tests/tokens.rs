//! Tokens, most of them hostile. They are signed here by hand: no library would make them.

use flotilla_proto::access::Right;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

use super::*;
use crate::credentials::Keys;
use crate::jwt::{Options, TOKEN_BYTES_MAX, Tokens};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Base64 as tokens have it.
fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digits = (0..=group.len()).map(|at| (bits >> (18 - 6 * at)) as usize & 63);
        text.extend(digits.map(|digit| char::from(DIGITS[digit])));
    }
    text
}

/// A key of each kind, the files of the public ones, and what checks by them.
struct House {
    ec: EcdsaKeyPair,
    rsa: Option<RsaKeyPair>,
    rsa_pem: String,
    tokens: Tokens,
    _folder: Folder,
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = encode(der).replace('-', "+").replace('_', "/");
    let text = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}

impl House {
    fn new(issuer: &str) -> House {
        let folder = Folder::new();
        let ec = rcgen::KeyPair::generate().unwrap();
        // Made once by `openssl genpkey`: nothing here makes RSA keys.
        let rsa_der = rustls::pki_types::PrivatePkcs8KeyDer::from(RSA.to_vec());
        let rsa = RsaKeyPair::from_pkcs8(rsa_der.secret_pkcs8_der()).unwrap();
        let rsa_pair = rcgen::KeyPair::try_from(&rsa_der).unwrap();
        let rsa_pem = pem("PUBLIC KEY", &rcgen::PublicKeyData::subject_public_key_info(&rsa_pair));
        let ec_pem = pem("PUBLIC KEY", &rcgen::PublicKeyData::subject_public_key_info(&ec));
        let random = ring::rand::SystemRandom::new();
        let options = Options {
            hs_secret_file: Some(folder.put("hs", SECRET)),
            rs_public_key_file: Some(folder.put("rs.pem", &rsa_pem)),
            es_public_key_file: Some(folder.put("es.pem", &ec_pem)),
            audience: "flotilla".to_owned(),
            issuer: issuer.to_owned(),
        };
        let ec =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &ec.serialize_der(), &random).unwrap();
        House { ec, rsa: Some(rsa), rsa_pem, tokens: Tokens::open(&options).unwrap(), _folder: folder }
    }

    /// Signs the two parts by the algorithm named here, whatever the header says.
    fn sign(&self, by: &str, header: &Value, claims: &Value) -> String {
        let text =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let random = ring::rand::SystemRandom::new();
        let hmac = |key: &[u8]| {
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
            ring::hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
        };
        let signed = match by {
            "hs" => hmac(SECRET.as_bytes()),
            "hs by the public key" => hmac(self.rsa_pem.as_bytes()),
            "rs" => {
                let rsa = self.rsa.as_ref().unwrap();
                let mut signed = vec![0; rsa.public().modulus_len()];
                rsa.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signed).unwrap();
                signed
            }
            "es" => self.ec.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
            _ => Vec::new(),
        };
        format!("{text}.{}", encode(&signed))
    }

    fn find(&self, token: &str) -> Result<Arc<flotilla_proto::access::Caller>, String> {
        let revoked = br#"{"version":1,"revoked_tokens":["gone"]}"#;
        self.tokens.find(token, &Keys::parse(revoked).unwrap())
    }
}

fn head(algorithm: &str) -> Value {
    json!({"alg": algorithm, "typ": "JWT"})
}

fn claims(change: impl Fn(&mut Value)) -> Value {
    let exp = crate::unix_seconds() + 1_000;
    let mut claims = json!({
        "sub": "ann", "role": "write", "collections": ["docs", "logs-*"], "tenant": "acme", "aud": "flotilla",
        "iss": "here", "exp": exp, "jti": "t1",
    });
    change(&mut claims);
    claims
}

#[test]
fn a_good_token_of_each_kind_says_who_calls() {
    let house = House::new("here");
    for (by, algorithm) in [("hs", "HS256"), ("rs", "RS256"), ("es", "ES256")] {
        let caller = house.find(&house.sign(by, &head(algorithm), &claims(|_| ()))).unwrap();
        assert_eq!((caller.name.as_str(), caller.tenant.as_deref()), ("token of ann", Some("acme")));
        assert!(
            caller.sees(Right::Write, "logs-1")
                && !caller.sees(Right::Read, "x")
                && !caller.has(Right::Admin)
        );
    }
    let whole = claims(|claims| drop(claims.as_object_mut().unwrap().remove("collections")));
    assert!(house.find(&house.sign("es", &head("ES256"), &whole)).unwrap().sees_all(Right::Write));
}

#[test]
fn hostile_tokens_are_refused_and_nothing_of_them_is_said() {
    let house = House::new("here");
    let now = crate::unix_seconds();
    let with = |name: &'static str, value: Value| claims(move |claims| claims[name] = value.clone());
    let without =
        |name: &'static str| claims(move |claims| drop(claims.as_object_mut().unwrap().remove(name)));
    let good = house.sign("hs", &head("HS256"), &claims(|_| ()));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    let mut table = vec![
        ("none", house.sign("", &head("none"), &claims(|_| ()))),
        ("None", house.sign("", &head("None"), &claims(|_| ()))),
        ("no signature", format!("{signed}.")),
        ("no third part", signed.to_owned()),
        ("four parts", format!("{good}.x")),
        ("another signature", format!("{signed}.{}", encode(&[7; 32]))),
        (
            "a bit of the signature",
            format!("{signed}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]),
        ),
        (
            "other claims under the signature",
            format!(
                "{}.{}.{}",
                parts[0],
                encode(with("role", json!("admin")).to_string().as_bytes()),
                parts[2]
            ),
        ),
        ("the public key as a secret", house.sign("hs by the public key", &head("HS256"), &claims(|_| ()))),
        (
            "RS256 in the header, HS256 by its key",
            house.sign("hs by the public key", &head("RS256"), &claims(|_| ())),
        ),
        ("ES256 in the header, RS256 below", house.sign("rs", &head("ES256"), &claims(|_| ()))),
        ("HS512", house.sign("hs", &head("HS512"), &claims(|_| ()))),
        ("no algorithm", house.sign("hs", &json!({"typ": "JWT"}), &claims(|_| ()))),
        ("critical headers", house.sign("hs", &json!({"alg": "HS256", "crit": ["exp"]}), &claims(|_| ()))),
        ("expired", house.sign("hs", &head("HS256"), &with("exp", json!(now - 100)))),
        ("no exp", house.sign("hs", &head("HS256"), &without("exp"))),
        ("exp as text", house.sign("hs", &head("HS256"), &with("exp", json!("tomorrow")))),
        ("not yet", house.sign("hs", &head("HS256"), &with("nbf", json!(now + 500)))),
        ("another audience", house.sign("hs", &head("HS256"), &with("aud", json!("canary")))),
        ("other audiences", house.sign("hs", &head("HS256"), &with("aud", json!(["a", "b"])))),
        ("no audience", house.sign("hs", &head("HS256"), &without("aud"))),
        ("another issuer", house.sign("hs", &head("HS256"), &with("iss", json!("canary")))),
        ("no issuer", house.sign("hs", &head("HS256"), &without("iss"))),
        ("revoked", house.sign("hs", &head("HS256"), &with("jti", json!("gone")))),
        ("no role", house.sign("hs", &head("HS256"), &without("role"))),
        ("a role that is none", house.sign("hs", &head("HS256"), &with("role", json!("root")))),
        ("no collection", house.sign("hs", &head("HS256"), &with("collections", json!([])))),
        ("collections as text", house.sign("hs", &head("HS256"), &with("collections", json!("*")))),
        ("nobody", house.sign("hs", &head("HS256"), &with("sub", json!("")))),
        ("claims that are none", house.sign("hs", &head("HS256"), &json!([1, 2]))),
        ("no base64", "a!.b!.c!".to_owned()),
        ("dots", "..".to_owned()),
        ("huge", house.sign("hs", &head("HS256"), &with("sub", json!("x".repeat(TOKEN_BYTES_MAX))))),
    ];
    table.push(("deep", house.sign("hs", &head("HS256"), &with("sub", nested(200)))));
    for (what, token) in table {
        let refused = house.find(&token).expect_err(what);
        assert!(!refused.contains("canary") && !refused.contains("ann"), "{what}: {refused}");
    }
    assert!(house.find(&good).is_ok());
    let any = House::new("");
    assert!(any.find(&any.sign("hs", &head("HS256"), &without("iss"))).is_ok());
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[test]
fn keys_that_are_none_and_a_missing_audience_refuse_the_start() {
    let folder = Folder::new();
    let ec = pem(
        "PUBLIC KEY",
        &rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap()),
    );
    let (short, ec, none) =
        (folder.put("short", "short"), folder.put("ec", ec), folder.put("none", "canary"));
    let options = || Options { audience: "a".to_owned(), ..Options::default() };
    for (what, options) in [
        ("at least 32 bytes", Options { hs_secret_file: Some(short), ..options() }),
        ("no PEM block", Options { rs_public_key_file: Some(none), ..options() }),
        ("none of RS256", Options { rs_public_key_file: Some(ec.clone()), ..options() }),
        ("security.jwt.audience", Options { es_public_key_file: Some(ec), ..Options::default() }),
    ] {
        let refused = Tokens::open(&options).unwrap_err().to_string();
        assert!(refused.contains(what) && !refused.contains("canary"), "{refused}");
    }
}

/// A key of 2,048 bits for these tests only.
const RSA: &[u8] = include_bytes!("rsa.pk8");
