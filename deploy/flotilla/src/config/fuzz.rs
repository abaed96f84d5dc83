//! The door for fuzzing of a configuration.

use super::command::show;
use super::{Config, Kind, Setting, Settings, keys, member};

/// What may be a configuration file.
///
/// **Promise.** Every key is taken within its bounds or every problem is named with its place, without a panic. What
/// `config show` prints of it reads back as the same configuration.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(settings) = read(&text) else { return };
    for (name, (setting, place)) in &settings.0 {
        assert!(place.starts_with("f.yaml"), "{place}");
        let kind = keys::find(name).map(|key| key.kind);
        let fits = match (kind, setting) {
            (Some(Kind::Number { min, max, .. }), Setting::Number(number)) => (min..=max).contains(number),
            (Some(Kind::Flag { .. }), Setting::Flag(_)) => true,
            (Some(Kind::Word { of, .. }), Setting::Text(text)) => of.contains(&text.as_str()),
            (Some(Kind::Address { .. }), Setting::Text(text)) => text.parse::<std::net::IpAddr>().is_ok(),
            (Some(Kind::Ratio { .. }), Setting::Text(text)) => {
                text.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio))
            }
            (Some(Kind::Path | Kind::Text), Setting::Text(text)) => !text.is_empty(),
            (Some(Kind::Shards), Setting::Shards(shards)) => member::distinct(shards).is_ok(),
            _ => false,
        };
        assert!(fits, "{name}: {setting:?}");
    }
    let shown = show(&settings);
    let again = read(&shown).map(|settings| Config::from(&settings));
    assert_eq!(again, Some(Config::from(&settings)), "{shown}");
}

/// The settings of a text without problems.
fn read(text: &str) -> Option<Settings> {
    let (mut settings, mut problems) = (Settings::default(), Vec::new());
    settings.take_file("f.yaml", text, &mut problems);
    assert!(problems.iter().all(|problem| problem.place.starts_with("f.yaml") && !problem.what.is_empty()));
    problems.is_empty().then_some(settings)
}
