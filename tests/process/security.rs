//! Who may do what at a real server, and over which connections.
//!
//! Keys are made and revoked by the binary itself; certificates come from authorities made for the test. Secrets that were
//! made here are looked for in everything that the processes say.

mod certificates;
mod cluster;
mod keys;
mod tenants;
mod wires;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flotilla_client::{Client, Credentials, Hosts, ReadPreference, Secret};
use flotilla_tests::process::{Finished, Service, Signal, command, run};

/// How long a server may take to see that a file changed.
const SEEN_WITHIN: Duration = Duration::from_secs(40);
/// No call of these tests takes longer.
const CALL_WITHIN: Duration = Duration::from_secs(20);

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs the binary, which must end well; returns what it printed.
fn done(args: &[&str]) -> String {
    let Finished { code, stdout, stderr } = run(command(crate::binary(), args)).unwrap();
    assert_eq!(code, Some(0), "{args:?}\nstdout: {stdout}\nstderr: {stderr}");
    stdout
}

/// Runs the binary, which must refuse; returns what it said.
fn refused(args: &[&str]) -> String {
    let ended = run(command(crate::binary(), args)).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    ended.stderr
}

/// A process of the test, and what it said when it was ready.
struct Process {
    service: Service,
    ready: String,
}

impl Process {
    fn start(args: &[&str]) -> Process {
        let mut service = Service::spawn(command(crate::binary(), args)).unwrap();
        let ready = service.ready_line().unwrap();
        Process { service, ready }
    }

    /// `flotilla up` over a folder, with these settings.
    fn up(folder: &Path, settings: &str) -> Process {
        let config = put(folder, "flotilla.yaml", settings);
        let data = folder.join("data");
        Process::start(&["up", "--data", utf8(&data), "--port", "0", "--config", utf8(&config)])
    }

    /// The URL after `ready on`.
    fn url(&self) -> String {
        let rest = self.ready.split("ready on ").nth(1).expect("a ready line");
        rest.split(',').next().unwrap_or(rest).trim().to_owned()
    }

    fn address(&self) -> SocketAddr {
        let url = self.url();
        url.split("//").nth(1).and_then(|address| address.parse().ok()).expect("an address")
    }

    /// Where its peers reach it.
    fn peers(&self) -> SocketAddr {
        let rest = self.ready.split("peers on ").nth(1).expect("a node's ready line");
        rest.split(',').next().and_then(|address| address.parse().ok()).expect("an address")
    }

    fn terminate(&self) {
        self.service.signal(Signal::Terminate).unwrap();
    }

    /// Its end; returns its log.
    fn drained(self) -> String {
        self.service.drained().unwrap()
    }
}

/// Writes the file whole, in the place of the old one.
fn put(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let (beside, path) = (folder.join("beside"), folder.join(name));
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, &path).unwrap();
    path
}

/// Makes a key; `grants` as `--grant` takes them.
fn key(file: &Path, name: &str, grants: &[&str], more: &[&str]) -> String {
    let mut args = vec!["keys", "create", "--file", utf8(file), "--name", name];
    args.extend(grants.iter().flat_map(|grant| ["--grant", grant]));
    args.extend(more);
    done(&args).trim().to_owned()
}

async fn client(url: &str, key: Option<&str>, ca_file: Option<&Path>) -> flotilla_client::Result<Client> {
    let hosts = Hosts { master: vec![url.to_owned()], replicas: vec![] };
    let api_key = key.map(|key| Secret::new(key.to_owned()));
    let credentials = Credentials { api_key, ca_file: ca_file.map(Path::to_owned), own: None };
    Client::connect_with(&hosts, ReadPreference::Master, &credentials).await
}

/// The command, with a key in its environment.
fn keyed(args: &[&str], key: &str) -> Command {
    let mut command = command(crate::binary(), args);
    command.env("FLOTILLA_API_KEY", key);
    command
}

/// None of these texts holds one of these secrets.
fn hold_no_secret(texts: &[(&str, &str)], secrets: &[&str]) {
    for (name, text) in texts {
        for secret in secrets {
            // The random part alone, too.
            let canary = secret.strip_prefix("fl_").and_then(|key| key.split('_').nth(1)).unwrap_or(secret);
            assert!(!text.contains(canary), "{name} tells a secret");
        }
    }
}
