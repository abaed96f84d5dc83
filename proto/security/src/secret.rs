//! What nobody may see: a value that does not show itself, is wiped when it goes, and compares in constant time.

use std::path::Path;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::Fault;
use crate::watched::read_bounded;

/// A secret text.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Holds it from now on.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// The first line of a file that is not empty.
    ///
    /// # Errors
    /// If the file cannot be read or has none.
    pub fn read(path: &Path) -> Result<Secret, Fault> {
        let bytes = Zeroizing::new(read_bounded(path)?);
        let all = Secret::lines(&bytes).map_err(|why| Fault::new(path, why))?;
        all.into_iter().next().ok_or_else(|| Fault::new(path, "holds no secret"))
    }

    /// Each line that is not empty.
    ///
    /// # Errors
    /// If it is no text.
    pub fn lines(bytes: &[u8]) -> Result<Vec<Secret>, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is no UTF-8 text".to_owned())?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(lines.map(|line| Secret::new(line.to_owned())).collect())
    }

    /// So many random bytes of the operating system, in hexadecimal.
    ///
    /// # Errors
    /// If the operating system has none.
    pub fn random(bytes: usize) -> Result<Secret, String> {
        let mut drawn = Zeroizing::new(vec![0; bytes]);
        getrandom::fill(&mut drawn).map_err(|why| format!("no random bytes: {why}"))?;
        Ok(Secret::new(hex(&drawn)))
    }

    /// Itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is this one. Takes as long for a wrong one as for the right one.
    pub fn is(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
