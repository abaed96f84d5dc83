use flotilla_proto::schema::IndexKind;

use super::*;

fn load(text: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.yaml");
    std::fs::write(&path, text).unwrap();
    let loaded = Settings::load(Some(&path), std::iter::empty(), &[]);
    loaded.map_err(|invalid| invalid.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

#[test]
fn a_file_sets_what_it_names_and_the_rest_keeps_its_default() {
    let settings = load("server:\n  port: 16000\nindex:\n  hnsw:\n    m: 32\nlog:\n").unwrap();
    let config = Config::from(&settings);
    assert_eq!(config.server.port, 16_000);
    let Some(hnsw) = config.index.hnsw() else { panic!("the default index is a graph") };
    assert_eq!((hnsw.m, hnsw.ef_construction), (32, 200));
    assert_eq!(config.log, Config::default().log);
    assert_eq!(settings.get("server.port").unwrap().1.rsplit(':').next(), Some("2"));
    assert_eq!(load("").unwrap().len(), 0);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
    assert_eq!(
        load("server:\n  # comment: no key\n  prot: 1\n").unwrap_err(),
        "f.yaml:3: unknown key `server.prot`; did you mean `server.port`?"
    );
    assert_eq!(
        load("hnsw:\n  ef_serch: 50\n").unwrap_err(),
        "f.yaml:1: unknown key `hnsw.ef_serch`; did you mean `index.hnsw.ef_search`?"
    );
    assert_eq!(load("zzzzzzzz: 1").unwrap_err(), "f.yaml:1: unknown key `zzzzzzzz`");
}

#[test]
fn wrong_types_and_ranges_name_key_limit_and_value() {
    for (text, expected) in [
        ("server: {port: 70000}", "f.yaml: server.port: must be 0 to 65535, got 70000"),
        ("server:\n  port: -1", "f.yaml:2: server.port: must be 0 to 65535, got -1"),
        ("log:\n  lanes: many", "f.yaml:2: log.lanes: expected 1 to 256, got the text \"many\""),
        ("log:\n  lanes: 1.5", "f.yaml:2: log.lanes: must be 1 to 256, got 1.5"),
        ("index:\n  type: annoy", "f.yaml:2: index.type: must be hnsw | flat | lsh, got annoy"),
        ("storage:\n  sync: 3", "f.yaml:2: storage.sync: must be true | false, got 3"),
        ("server:\n  bind: here", "f.yaml:2: server.bind: must be an IP address, got here"),
        ("server: 7", "f.yaml:1: server: expected keys nested in it, got 7"),
        ("server:\n  port: [1]", "f.yaml:2: server.port: expected 0 to 65535, got a list"),
    ] {
        assert_eq!(load(text).unwrap_err(), expected, "{text}");
    }
    assert!(load("server: [").unwrap_err().contains("not YAML"));
}

#[test]
fn every_problem_is_reported_at_once() {
    let error = load("server:\n  port: 70000\nmemory:\n  mmap_enable: true\n").unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn the_environment_goes_before_the_file_and_flags_before_both() {
    let environment = || {
        let set =
            [("FLOTILLA_SERVER_PORT", "1"), ("FLOTILLA_LOG_LANES", "2"), ("FLOTILLA_SERVICE_HOST", "x")];
        set.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let flags = [("server.port", "--port", "3".to_owned())];
    let config = Config::from(&Settings::load(None, environment(), &flags).unwrap());
    assert_eq!((config.server.port, config.log.lanes), (3, 2));
    let typo = [("FLOTILLA_SERVER_PROT".to_owned(), "1".to_owned())];
    let error = Settings::load(None, typo.into_iter(), &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "environment FLOTILLA_SERVER_PROT: unknown variable; did you mean `FLOTILLA_SERVER_PORT`?"
    );
}

#[test]
fn every_key_reads_back_at_its_bounds() {
    for key in KEYS {
        let Kind::Number { default, min, max } = key.kind else { continue };
        assert!(min <= default && default <= max, "{}", key.name);
        for bound in [min, max] {
            let flags = [(key.name, "--flag", bound.to_string())];
            let settings = Settings::load(None, std::iter::empty(), &flags).unwrap();
            assert_eq!(settings.number(key.name), bound);
        }
        for beyond in [min.wrapping_sub(1), max + 1] {
            let flags = [(key.name, "--flag", beyond.to_string())];
            assert!(Settings::load(None, std::iter::empty(), &flags).is_err(), "{} = {beyond}", key.name);
        }
    }
}

#[test]
fn defaults_agree_with_the_balanced_preset_and_the_limits() {
    let config = Config::default();
    assert_eq!(config.index, IndexKind::default());
    assert_eq!(config.cluster.partitions, flotilla_proto::limits::PARTITIONS_DEFAULT);
}

#[test]
fn what_show_prints_reads_back_as_the_same_configuration() {
    let settings = load("server:\n  port: 16000\nstorage:\n  data_dir: /tmp/x\n  sync: false\n").unwrap();
    let again = load(&command::show(&settings)).unwrap();
    assert_eq!(Config::from(&again), Config::from(&settings));
    for key in KEYS {
        assert!(command::show(&settings).contains(key.doc));
    }
}

#[test]
fn the_readme_tells_every_key_and_no_other() {
    let readme = include_str!("../../../../README.md");
    let table = readme.split("## Configuration").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let told: Vec<&str> = rows.collect();
    let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(told, known);
    for key in KEYS {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{}`", key.name))).unwrap();
        let default = key.kind.default_text();
        let cell = if default.is_empty() { "–".to_owned() } else { format!("`{default}`") };
        assert!(row.contains(&format!("| {cell} |")), "{row}: default {cell}");
        assert!(row.contains(&key.kind.legal().replace('|', "\\|")), "{row}: {}", key.kind.legal());
    }
}

#[test]
fn what_is_shown_reads_back_whatever_the_folder_is_called() {
    for name in
        ["a: b", "a # b", "null", "~", "007", "0x10", " a ", "'", "\"", "\\", "-", "[a]", "true", "ä", "a\tb"]
    {
        let settings =
            load(&format!("storage:\n  data_dir: {}\n", serde_json::to_string(name).unwrap())).unwrap();
        let shown = command::show(&settings);
        let again = load(&shown).unwrap_or_else(|why| panic!("{name:?}: {why}"));
        assert_eq!(Config::from(&again).storage.data_dir, Some(name.into()), "{shown}");
    }
    let settings = load("server:\n  bind: \"::\"\n").unwrap();
    assert_eq!(Config::from(&load(&command::show(&settings)).unwrap()), Config::from(&settings));
}

#[test]
fn what_the_autoscaler_goes_by_is_as_the_node_has_it_and_can_be_set() {
    assert_eq!(Config::default().autoscale, autoscale::Options::default());
    let set =
        load("autoscale: {up_after_seconds: 60, cpu_up_percent: 50, p99_ms: 10, nodes_min: 3}").unwrap();
    let set = Config::from(&set).autoscale;
    assert_eq!((set.up_after, set.cpu_up, set.nodes_min), (Duration::from_secs(60), 0.5, 3));
    assert_eq!(set.p99, Duration::from_millis(10));
}
