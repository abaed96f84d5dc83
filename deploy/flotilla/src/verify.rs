//! `flotilla verify`: whether the replicas of each partition are equal.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use flotilla_client::{Options, ReplicaDigest, VerifyResponse};
use futures::TryStreamExt as _;
use serde_json::json;

use crate::output::Output;
use crate::table::{Align, Table};
use crate::target::{self, Target};

/// Arguments of `flotilla verify`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla verify
  flotilla verify --to http://db:15010 --collection docs
  flotilla verify --deep --timeout-s 3600 --output json

Each replica tells a digest of what it holds at one log index. By default that is the digest that it keeps of keys and
versions; --deep reads every record. The exit code is 1 if replicas differ, or if one could not be asked.")]
pub struct VerifyArgs {
    #[command(flatten)]
    target: Target,
    /// Only this collection
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Read every record: payloads and vectors too
    #[arg(long)]
    deep: bool,
    /// Seconds that all of it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: u64,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// Whether a replica is equal to the others of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Equal,
    Differs,
    Unknown,
}

impl VerifyArgs {
    /// Asks, prints, and fails if all is not well.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.verify())
    }

    async fn verify(self) -> anyhow::Result<()> {
        let timeout = Duration::from_secs(self.timeout_s);
        let client = self.target.client().await?;
        let client = client.with_options(Options { timeout, ..Options::default() });
        let answers: Vec<VerifyResponse> =
            client.verify(self.collection.as_deref(), self.deep).await?.try_collect().await?;
        let text = match self.output {
            Output::Table => table(&answers),
            Output::Json => format!("{}\n", document(&answers)),
        };
        std::io::stdout().lock().write_all(text.as_bytes())?;
        complaint(&answers).map_or(Ok(()), |what| Err(anyhow::anyhow!(what)))
    }
}

/// The verdict on each replica of an answer. Where no digest of a partition has a majority, none of them is right.
fn verdicts(answer: &VerifyResponse) -> Vec<(&ReplicaDigest, Verdict)> {
    let verdict = |replica: &ReplicaDigest| {
        if !replica.error.is_empty() {
            return Verdict::Unknown;
        }
        let told = || {
            answer
                .replicas
                .iter()
                .filter(|other| other.partition == replica.partition && other.error.is_empty())
        };
        let alike = told().filter(|other| other.digest == replica.digest).count();
        if alike * 2 > told().count() { Verdict::Equal } else { Verdict::Differs }
    };
    answer.replicas.iter().map(|replica| (replica, verdict(replica))).collect()
}

/// What is wrong, if anything is.
fn complaint(answers: &[VerifyResponse]) -> Option<String> {
    let count =
        |wanted: Verdict| answers.iter().flat_map(verdicts).filter(|(_, verdict)| *verdict == wanted).count();
    match (count(Verdict::Differs), count(Verdict::Unknown)) {
        (0, 0) => None,
        (0, silent) => Some(format!("{silent} could not be asked")),
        (divergent, 0) => Some(format!("{divergent} replicas differ")),
        (divergent, silent) => Some(format!("{divergent} replicas differ, {silent} could not be asked")),
    }
}

fn table(answers: &[VerifyResponse]) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("collection", left, 40),
        ("partition", right, 20),
        ("node", right, 20),
        ("log index", right, 20),
        ("digest", left, 32),
        ("equal", left, 120),
    ]);
    for answer in answers {
        for (replica, verdict) in verdicts(answer) {
            let equal = match verdict {
                Verdict::Equal => "yes".to_owned(),
                Verdict::Differs => "NO".to_owned(),
                Verdict::Unknown => format!("? {}", replica.error),
            };
            let numbers = [replica.partition, replica.node, replica.log_index].map(|n| n.to_string());
            let cells = [answer.collection.clone()].into_iter().chain(numbers);
            table.row(cells.chain([replica.digest.clone(), equal]));
        }
    }
    table.render()
}

fn document(answers: &[VerifyResponse]) -> serde_json::Value {
    let row = |(collection, (replica, verdict)): (&str, (&ReplicaDigest, Verdict))| {
        let equal = match verdict {
            Verdict::Equal => json!(true),
            Verdict::Differs => json!(false),
            Verdict::Unknown => json!(null),
        };
        let error = (!replica.error.is_empty()).then_some(&replica.error);
        json!({
            "collection": collection, "partition": replica.partition, "node": replica.node,
            "log_index": replica.log_index, "digest": replica.digest, "equal": equal, "error": error,
        })
    };
    let rows = answers
        .iter()
        .flat_map(|answer| verdicts(answer).into_iter().map(|found| (answer.collection.as_str(), found)));
    json!({"equal": complaint(answers).is_none(), "replicas": rows.map(row).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(replicas: &[(u64, u64, &str)]) -> VerifyResponse {
        let replica = |(partition, node, digest): &(u64, u64, &str)| match digest.strip_prefix("error: ") {
            Some(error) => ReplicaDigest {
                partition: *partition,
                node: *node,
                error: error.into(),
                ..Default::default()
            },
            None => ReplicaDigest {
                partition: *partition,
                node: *node,
                log_index: 7,
                digest: (*digest).into(),
                ..Default::default()
            },
        };
        let replicas = replicas.iter().map(replica).collect();
        VerifyResponse { collection: "docs".into(), replicas, ..Default::default() }
    }

    #[test]
    fn equal_replicas_are_no_complaint() {
        let good = answer(&[(1, 1, "aa"), (1, 2, "aa"), (2, 1, "bb")]);
        assert_eq!(complaint(std::slice::from_ref(&good)), None);
        assert_eq!(
            table(std::slice::from_ref(&good)),
            concat!(
                "  collection  partition  node  log index  digest  equal\n",
                "  ──────────  ─────────  ────  ─────────  ──────  ─────\n",
                "  docs                1     1          7  aa      yes\n",
                "  docs                1     2          7  aa      yes\n",
                "  docs                2     1          7  bb      yes\n"
            )
        );
        assert_eq!(document(&[good])["equal"], json!(true));
    }

    #[test]
    fn the_minority_differs_and_without_a_majority_nobody_is_right() {
        use Verdict::{Differs, Equal, Unknown};
        let of = |replicas: &[(u64, u64, &str)]| {
            let answer = answer(replicas);
            verdicts(&answer).into_iter().map(|(_, verdict)| verdict).collect::<Vec<Verdict>>()
        };
        assert_eq!(of(&[(1, 1, "a"), (1, 2, "b"), (1, 3, "a")]), [Equal, Differs, Equal]);
        assert_eq!(of(&[(1, 1, "a"), (1, 2, "b"), (2, 1, "c")]), [Differs, Differs, Equal]);
        assert_eq!(of(&[(1, 1, "a"), (1, 2, "error: gone")]), [Equal, Unknown]);
        let bad = answer(&[(1, 1, "a"), (1, 2, "b"), (1, 3, "error: gone")]);
        assert_eq!(complaint(std::slice::from_ref(&bad)).unwrap(), "2 replicas differ, 1 could not be asked");
        let json = document(&[bad]);
        assert_eq!((&json["equal"], &json["replicas"][1]["equal"]), (&json!(false), &json!(false)));
        assert_eq!(json["replicas"][2]["error"], json!("gone"));
    }
}
