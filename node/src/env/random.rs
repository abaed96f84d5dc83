//! Randomness from the operating system, good enough for keys and identities.

use uuid::Uuid;

/// Fills `bytes` with random bytes.
///
/// A system that cannot give randomness cannot choose identities or election timeouts either: the process
/// ends at once instead of guessing. Linux answers every call after early boot.
pub fn fill(bytes: &mut [u8]) {
    if let Err(error) = getrandom::fill(bytes) {
        tracing::error!(%error, "the operating system gives no randomness");
        std::process::abort();
    }
}

/// A random number over the whole range.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// A random identity (UUID version 4).
pub fn uuid() -> Uuid {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    #[test]
    fn identities_differ_and_are_version_4() {
        let (a, b) = (super::uuid(), super::uuid());
        assert_ne!(a, b);
        assert_eq!(a.get_version_num(), 4);
        assert_ne!(super::u64(), super::u64());
    }
}
