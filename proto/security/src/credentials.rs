//! The file of API keys: who has one, what it gives, how long it holds. Of the keys themselves there are only hashes.
//!
//! A key is `fl_ID_SECRET`: the id finds its row, the secret is 256 random bits. A secret that nobody can guess needs no slow
//! hash: SHA-256 of it is kept, and compared in constant time. Several rows may bear one name, so that a key is replaced by
//! a new one while both hold, and then revoked. Revoked ids of tokens (`jti`) stand in the same file.
//!
//! `flotilla keys` writes it ([`KeyFile`]); servers read it ([`Keys`]) and read it again when it changes.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use flotilla_proto::access::{Caller, Collections, Grant, Role};
use flotilla_proto::tenant::{Class, check_tenant};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::secret::hex;
use crate::watched::read_bounded;
use crate::{Fault, Secret};

/// The only format there is.
const VERSION: u32 = 1;
/// Keys of one file, at most.
pub const KEYS_MAX: usize = 10_000;
/// Revoked tokens of one file, at most.
pub const REVOKED_TOKENS_MAX: usize = 100_000;
/// Grants of a key, and collections of a grant, at most.
pub const GRANTS_MAX: usize = 64;
/// Bytes of a name, at most.
pub const NAME_BYTES_MAX: usize = 255;
const PREFIX: &str = "fl_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// The file as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    version: u32,
    /// The keys, the oldest first.
    #[serde(default)]
    pub keys: Vec<KeyRow>,
    /// Ids of tokens that hold no more.
    #[serde(default)]
    pub revoked_tokens: Vec<String>,
}

/// One key as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRow {
    /// Its public part.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// SHA-256 of its secret part, in hexadecimal.
    sha256: String,
    /// What it gives.
    pub grants: Vec<GrantRow>,
    /// The tenant that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The class of that tenant; `default`, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it ends, in seconds since 1970; never, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Whether it holds no more.
    #[serde(default)]
    pub revoked: bool,
}

/// One grant as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRow {
    /// `read`, `write` or `admin`.
    pub role: String,
    /// Names of collections, or their beginnings with `*`; all, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collections: Option<Vec<String>>,
}

impl GrantRow {
    /// Out of `ROLE` or `ROLE:NAME,PREFIX*`.
    ///
    /// # Errors
    /// If the role is none, or a name is empty.
    pub fn parse(text: &str) -> Result<GrantRow, String> {
        let (role, names) = match text.split_once(':') {
            Some((role, names)) => (role, Some(names.split(',').map(str::to_owned).collect())),
            None => (text, None),
        };
        let row = GrantRow { role: role.to_owned(), collections: names };
        row.grant().map(|_| row)
    }

    /// What it means.
    ///
    /// # Errors
    /// If the role is none, or the collections are.
    pub fn grant(&self) -> Result<Grant, String> {
        let role = Role::of(&self.role);
        let role = role.ok_or_else(|| format!("role: must be read | write | admin, got `{}`", self.role))?;
        let collections = match &self.collections {
            None => Collections::All,
            Some(names) => {
                bounded("collections", names.len(), GRANTS_MAX)?;
                for name in names {
                    named("collections", name)?;
                }
                Collections::Named(names.clone())
            }
        };
        Ok(Grant { rights: role.rights(), collections })
    }
}

fn bounded(field: &str, count: usize, max: usize) -> Result<(), String> {
    if count == 0 || count > max { Err(format!("{field}: must be 1 to {max}, got {count}")) } else { Ok(()) }
}

fn named(field: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "{field}: must be 1 to {NAME_BYTES_MAX} printable bytes, got {} bytes",
            name.len()
        ));
    }
    Ok(())
}

/// The class of a tenant; without a tenant, nobody's.
pub(crate) fn belongs(tenant: Option<&str>, class: Option<&str>) -> Result<Class, String> {
    if let Some(tenant) = tenant {
        check_tenant("tenant", tenant).map_err(|why| why.to_string())?;
    } else if class.is_some() {
        return Err("class: goes with a tenant only".to_owned());
    }
    Class::of_text("class", class.unwrap_or_default()).map_err(|why| why.to_string())
}

impl Default for KeyFile {
    fn default() -> KeyFile {
        KeyFile { version: VERSION, keys: Vec::new(), revoked_tokens: Vec::new() }
    }
}

impl KeyFile {
    /// Reads it; one that is not there holds nothing.
    ///
    /// # Errors
    /// If it is there and cannot be read, or is damaged.
    pub fn load(path: &Path) -> Result<KeyFile, Fault> {
        if !path.exists() {
            return Ok(KeyFile::default());
        }
        let file = KeyFile::parse(&read_bounded(path)?);
        let file = file.and_then(|file| Keys::new(&file).map(|_| file));
        file.map_err(|why| Fault::new(path, why))
    }

    fn parse(bytes: &[u8]) -> Result<KeyFile, String> {
        // The library's own words could quote what stands there.
        let wrong = |why: serde_json::Error| {
            format!("is no file of keys: line {}, column {}", why.line(), why.column())
        };
        let file: KeyFile = serde_json::from_slice(bytes).map_err(wrong)?;
        if file.version != VERSION {
            return Err(format!("version: must be {VERSION}, got {}", file.version));
        }
        Ok(file)
    }

    /// Writes it: the whole file at once, readable by whom the old one was, a new one by its owner only.
    ///
    /// # Errors
    /// If that fails.
    pub fn save(&self, path: &Path) -> Result<(), Fault> {
        use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
        let wrong = |why: &dyn std::fmt::Display| Fault::new(path, why);
        let text = serde_json::to_string_pretty(self).map_err(|why| wrong(&why))?;
        let beside = path.with_extension("tmp");
        let mode = std::fs::metadata(path).map_or(0o600, |old| old.permissions().mode() & 0o777);
        let written = || -> std::io::Result<()> {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        written().map_err(|why| wrong(&why))
    }

    /// Adds a key; returns it, for this once.
    ///
    /// # Errors
    /// If the row is not good, or there are too many.
    pub fn create(
        &mut self,
        name: &str,
        grants: Vec<GrantRow>,
        (tenant, class): (Option<String>, Option<String>),
        expires: Option<u64>,
    ) -> Result<Secret, String> {
        bounded("keys", self.keys.len() + 1, KEYS_MAX)?;
        let id = Secret::random(ID_BYTES)?.expose().to_owned();
        let secret = Secret::random(SECRET_BYTES)?;
        let row = KeyRow {
            sha256: hex(&sha256(secret.expose())),
            id: id.clone(),
            name: name.to_owned(),
            grants,
            tenant,
            class,
            created: crate::unix_seconds(),
            expires,
            revoked: false,
        };
        row.known()?;
        self.keys.push(row);
        Ok(Secret::new(format!("{PREFIX}{id}_{}", secret.expose())))
    }

    /// Revokes the key of this id, or all of this name; returns how many.
    pub fn revoke(&mut self, id_or_name: &str) -> usize {
        let meant = |row: &&mut KeyRow| !row.revoked && (row.id == id_or_name || row.name == id_or_name);
        let revoked = self.keys.iter_mut().filter(meant).map(|row| row.revoked = true);
        revoked.count()
    }
}

impl KeyRow {
    fn known(&self) -> Result<Known, String> {
        named("name", &self.name)?;
        named("id", &self.id)?;
        let class = belongs(self.tenant.as_deref(), self.class.as_deref())?;
        bounded("grants", self.grants.len(), GRANTS_MAX)?;
        let grants = self.grants.iter().map(GrantRow::grant).collect::<Result<_, _>>()?;
        let hash = unhex(&self.sha256).ok_or("sha256: must be 64 hexadecimal digits")?;
        let name = format!("key {} ({})", self.id, self.name);
        let caller = Arc::new(Caller { name, tenant: self.tenant.clone(), class, grants });
        Ok(Known { hash, caller, expires: self.expires.unwrap_or(u64::MAX), is_revoked: self.revoked })
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// The keys as servers look them up.
#[derive(Debug, Default)]
pub struct Keys {
    known: HashMap<String, Known>,
    revoked_tokens: HashSet<String>,
}

#[derive(Debug)]
struct Known {
    hash: [u8; 32],
    caller: Arc<Caller>,
    expires: u64,
    is_revoked: bool,
}

impl Keys {
    /// Out of a file's bytes.
    ///
    /// # Errors
    /// If it is damaged: the row and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Keys, String> {
        Keys::new(&KeyFile::parse(bytes)?)
    }

    fn new(file: &KeyFile) -> Result<Keys, String> {
        if file.keys.len() > KEYS_MAX || file.revoked_tokens.len() > REVOKED_TOKENS_MAX {
            return Err(format!("must hold at most {KEYS_MAX} keys and {REVOKED_TOKENS_MAX} revoked tokens"));
        }
        let mut known = HashMap::with_capacity(file.keys.len());
        for (at, row) in file.keys.iter().enumerate() {
            let found = row.known().map_err(|why| format!("keys[{at}].{why}"))?;
            if known.insert(row.id.clone(), found).is_some() {
                return Err(format!("keys[{at}].id: there is another key of this id"));
            }
        }
        Ok(Keys { known, revoked_tokens: file.revoked_tokens.iter().cloned().collect() })
    }

    /// Whose key this is, at this time.
    ///
    /// # Errors
    /// Why it does not hold: only who has the right secret learns more than that it is not known.
    pub fn find(&self, key: &str, now: u64) -> Result<Arc<Caller>, &'static str> {
        const UNKNOWN: &str = "the API key is not known";
        let (id, secret) = key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(UNKNOWN)?;
        let hash = sha256(secret);
        let known = self.known.get(id);
        // An id that is not there takes as long as one that is.
        let expected = known.map_or([0; 32], |known| known.hash);
        let is_right: bool = expected.ct_eq(&hash).into();
        match known.filter(|_| is_right) {
            None => Err(UNKNOWN),
            Some(known) if known.is_revoked => Err("the API key is revoked"),
            Some(known) if known.expires <= now => Err("the API key has expired"),
            Some(known) => Ok(known.caller.clone()),
        }
    }

    /// Whether the token of this id holds no more.
    pub fn is_revoked(&self, token: &str) -> bool {
        self.revoked_tokens.contains(token)
    }
}
