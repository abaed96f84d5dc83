//! The one [table](KEYS) of configuration keys: name, kind, default, bounds, unit and meaning. `config show` prints it, the
//! loader refuses what is not in it, and a test holds the README's table against it.

mod table;

pub use table::KEYS;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A whole number within bounds.
    Number {
        /// Value of a key that is not set.
        default: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A truth value.
    Flag {
        /// Value of a key that is not set.
        default: bool,
    },
    /// One of some words.
    Word {
        /// Value of a key that is not set.
        default: &'static str,
        /// The words.
        of: &'static [&'static str],
    },
    /// An IP address.
    Address {
        /// Value of a key that is not set.
        default: &'static str,
    },
    /// A share of the whole, from 0 to 1.
    Ratio {
        /// Value of a key that is not set.
        default: &'static str,
    },
    /// A folder or a file; no default.
    Path,
    /// Any text; no default.
    Text,
    /// The shards of a cluster; no default.
    Shards,
}

impl Kind {
    /// The default as a user would write it; empty where there is none.
    pub fn default_text(&self) -> String {
        match self {
            Kind::Number { default, .. } => default.to_string(),
            Kind::Flag { default } => default.to_string(),
            Kind::Word { default, .. } | Kind::Address { default } | Kind::Ratio { default } => {
                (*default).to_owned()
            }
            Kind::Path | Kind::Text | Kind::Shards => String::new(),
        }
    }

    /// The legal values in words.
    pub fn legal(&self) -> String {
        match self {
            Kind::Number { min, max, .. } => format!("{min} to {max}"),
            Kind::Flag { .. } => "true | false".to_owned(),
            Kind::Word { of, .. } => of.join(" | "),
            Kind::Address { .. } => "an IP address".to_owned(),
            Kind::Ratio { .. } => "0 to 1".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Text => "a text".to_owned(),
            Kind::Shards => {
                "a list of {id, address, weight}, or ID=HOST:PORT*WEIGHT with commas between".to_owned()
            }
        }
    }
}

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name, as nested in the file.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Unit of a number; empty for a plain count.
    pub unit: &'static str,
    /// Meaning, one sentence.
    pub doc: &'static str,
    /// Whether a change in the file takes effect while the server runs.
    pub is_live: bool,
}

/// The key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether keys are nested in this name.
pub fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| nested_in(key.name, name))
}

fn nested_in(name: &str, section: &str) -> bool {
    name.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// The known key most like a wrong name, if any is like it.
pub fn nearest(name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, known);
        let tail = strsim::normalized_damerau_levenshtein(&last(name), &last(known));
        whole.max(0.9 * tail)
    };
    KEYS.iter()
        .map(|key| (likeness(key.name), key.name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .map(|(_, name)| name)
}

/// The environment variable that sets a key: `server.port` is `FLOTILLA_SERVER_PORT`.
pub fn variable(name: &str) -> String {
    format!("FLOTILLA_{}", name.replace('.', "_").to_uppercase())
}
