//! `flotilla keys`: makes, lists and revokes API keys, in the file that servers read.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use flotilla_security::credentials::{GrantRow, KeyFile, KeyRow};
use flotilla_security::unix_seconds;

use crate::table::{Align, Table};

const DAY: u64 = 86_400;

/// Arguments of `flotilla keys`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla keys create --file keys.json --name ops --grant admin
  flotilla keys create --file keys.json --name app --grant 'write:orders,logs-*' --grant read:products --days 90
  flotilla keys create --file keys.json --name shop --grant admin --tenant acme --class enterprise
  flotilla keys list --file keys.json
  flotilla keys revoke --file keys.json app

A server reads the file that its key security.api_keys_file names, and again when it changes. The file holds hashes: a key
is printed once, when it is made. To replace one, make another of the same name, hand it out, and revoke the old one by id.")]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Makes a key and prints it: this once, and nowhere else
    #[command(after_help = "Examples:\n  flotilla keys create --file keys.json --name ops --grant admin")]
    Create {
        /// The file; made if it is not there
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Whose key it is
        #[arg(long)]
        name: String,
        /// What it gives: read, write or admin, on all collections or on those named after a colon; a name may end in *
        #[arg(long, value_name = "ROLE[:COLLECTION,...]", required = true, value_parser = GrantRow::parse)]
        grant: Vec<GrantRow>,
        /// Tenant that it belongs to
        #[arg(long)]
        tenant: Option<String>,
        /// Class of that tenant, by which it is limited: default or enterprise [default: default]
        #[arg(long, requires = "tenant")]
        class: Option<String>,
        /// Days for which it holds [default: until it is revoked]
        #[arg(long)]
        days: Option<u32>,
    },
    /// Prints the keys: whose they are and what they give, never the keys themselves
    #[command(after_help = "Examples:\n  flotilla keys list --file keys.json")]
    List {
        /// The file
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Ends a key; servers refuse it as soon as they have read the file again, within seconds
    #[command(after_help = "Examples:\n  flotilla keys revoke --file keys.json app")]
    Revoke {
        /// The file
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Id of one key, or name of all that bear it
        key: String,
    },
}

impl KeysArgs {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.action {
            Action::Create { file, name, grant, tenant, class, days } => {
                let mut keys = KeyFile::load(&file)?;
                let expires = days.map(|days| unix_seconds().saturating_add(u64::from(days) * DAY));
                let key = keys.create(&name, grant, (tenant, class), expires).map_err(anyhow::Error::msg)?;
                keys.save(&file)?;
                writeln!(out, "{}", key.expose())?;
            }
            Action::List { file } => {
                anyhow::ensure!(file.exists(), "{}: there is no such file", file.display());
                let keys = KeyFile::load(&file)?;
                let columns = [("id", 16), ("name", 40), ("grants", 60), ("tenant", 20), ("state", 16)];
                let mut table = Table::new(&columns.map(|(name, most)| (name, Align::Left, most)));
                let now = unix_seconds();
                keys.keys.iter().for_each(|row| table.row(cells(row, now)));
                out.write_all(table.render().as_bytes())?;
            }
            Action::Revoke { file, key } => {
                let mut keys = KeyFile::load(&file)?;
                let revoked = keys.revoke(&key);
                anyhow::ensure!(revoked > 0, "no key of {} that holds is called `{key}`", file.display());
                keys.save(&file).context("revoking")?;
                writeln!(out, "revoked: {revoked}")?;
            }
        }
        Ok(())
    }
}

fn cells(row: &KeyRow, now: u64) -> [String; 5] {
    let grant = |grant: &GrantRow| match &grant.collections {
        Some(names) => format!("{}:{}", grant.role, names.join(",")),
        None => grant.role.clone(),
    };
    let grants = row.grants.iter().map(grant).collect::<Vec<_>>().join(" ");
    let state = match row.expires {
        _ if row.revoked => "revoked".to_owned(),
        Some(end) if end <= now => "expired".to_owned(),
        Some(end) => format!("{} days left", (end - now).div_ceil(DAY)),
        None => "holds".to_owned(),
    };
    [row.id.clone(), row.name.clone(), grants, row.tenant.clone().unwrap_or_default(), state]
}
