//! A configuration file that is looked at while the server runs.
//!
//! Every second its text is compared with what it was. A new text is read as at a start, with the same environment and flags
//! before it. If it is in order, keys that are live take effect at once, and those that are not are logged as needing a
//! restart; if it is not, every problem is logged, once for each text, and what was in force stays in force.

use std::path::PathBuf;
use std::time::Duration;

use super::keys::KEYS;
use super::member::Member;
use super::{Config, Settings};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file, and what it said when it was last in order.
#[derive(Debug)]
pub struct Watched {
    file: Option<PathBuf>,
    flags: Vec<(&'static str, &'static str, String)>,
    settings: Settings,
    seen: Result<Vec<u8>, String>,
}

impl Watched {
    /// Reads the configuration as [`Settings::load`] does, to be followed later.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(
        file: Option<PathBuf>,
        flags: Vec<(&'static str, &'static str, String)>,
    ) -> Result<Watched, super::Invalid> {
        // The text first: what changes while it is read is seen at the first look.
        let seen = text_of(&file);
        let settings = Settings::load(file.as_deref(), std::env::vars(), &flags)?;
        Ok(Watched { file, flags, settings, seen })
    }

    /// The configuration as it is in force.
    pub fn config(&self) -> Config {
        Config::from(&self.settings)
    }

    /// What it says of this process as a member of a cluster.
    ///
    /// # Errors
    /// Keys that contradict each other, or that lack another.
    pub fn member(&self) -> anyhow::Result<Member> {
        Member::of(&self.settings, self.config().server.bind)
    }

    /// Whether somebody named this key.
    pub fn names(&self, key: &str) -> bool {
        self.settings.get(key).is_some()
    }

    /// Looks at the file for ever, and hands over each configuration whose live keys are to take effect. Without a file there
    /// is nothing to look at.
    pub async fn follow(mut self, apply: impl Fn(&Config)) {
        if self.file.is_none() {
            return;
        }
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let looked = tokio::task::spawn_blocking(move || {
                let is_changed = self.look();
                (self, is_changed)
            });
            let Ok((watched, is_changed)) = looked.await else { return };
            self = watched;
            if is_changed {
                apply(&self.config());
            }
        }
    }

    /// Whether a live key has another value now.
    fn look(&mut self) -> bool {
        let text = text_of(&self.file);
        if text == self.seen {
            return false;
        }
        self.seen = text;
        let loaded = Settings::load(self.file.as_deref(), std::env::vars(), &self.flags);
        match loaded {
            Ok(settings) => self.take(settings),
            Err(invalid) => {
                for problem in invalid.0 {
                    let (place, what) = (problem.place, problem.what);
                    tracing::error!(
                        place,
                        what,
                        "the configuration is not taken: the old one stays in force"
                    );
                }
                false
            }
        }
    }

    fn take(&mut self, settings: Settings) -> bool {
        let mut is_changed = false;
        let told = |settings: &Settings, name| match settings.get(name) {
            Some((value, _)) => value.to_string(),
            None => "its default".to_owned(),
        };
        for key in KEYS {
            let (old, new) = (told(&self.settings, key.name), told(&settings, key.name));
            match (old == new, key.is_live) {
                (true, _) => {}
                (false, true) => {
                    is_changed = true;
                    tracing::info!(key = key.name, old, new, "the configuration has changed");
                }
                (false, false) => {
                    tracing::warn!(key = key.name, old, new, "this key takes effect at the next start");
                }
            }
        }
        self.settings = settings;
        is_changed
    }
}

fn text_of(file: &Option<PathBuf>) -> Result<Vec<u8>, String> {
    match file {
        Some(path) => flotilla_node::env::fs::read(path).map_err(|why| why.to_string()),
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_key_takes_effect_and_a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.yaml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("server:\n  max_connections: 10\n");
        let mut watched = Watched::load(Some(file.clone()), Vec::new()).unwrap();
        assert!(!watched.look(), "nothing has changed");
        write("server:\n  max_connections: 11\n");
        assert!(watched.look());
        assert_eq!(watched.config().server.max_connections, 11);
        for broken in ["server:\n  max_connections: many\n", "server: [", "serve:\n  port: 1\n", "\u{fffd}\0"]
        {
            write(broken);
            assert!(!watched.look() && !watched.look());
            assert_eq!(watched.config().server.max_connections, 11, "{broken:?}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(!watched.look());
        assert_eq!(watched.config().server.max_connections, 11);
        write("server:\n  max_connections: 11\n  port: 16000\n");
        assert!(!watched.look(), "the port is no live key");
        write("");
        assert!(watched.look());
        assert_eq!(watched.config().server.max_connections, 10_000);
    }

    #[test]
    fn what_a_flag_says_stays_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.yaml");
        std::fs::write(&file, "server:\n  max_connections: 10\n").unwrap();
        let flags = vec![("server.max_connections", "--flag", "7".to_owned())];
        let mut watched = Watched::load(Some(file.clone()), flags).unwrap();
        std::fs::write(&file, "server:\n  max_connections: 11\n").unwrap();
        assert!(!watched.look());
        assert_eq!(watched.config().server.max_connections, 7);
    }
}
