//! Where and how fresh a command reads: the same arguments for every one that reads.

use std::time::Duration;

use clap::{Args, ValueEnum};
use flotilla_client::{Client, Consistency, Read, ReadPreference};
use flotilla_proto::v1::Coverage;

use crate::output;
use crate::target::Target;

/// Which replicas are asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preference {
    /// The one that takes the writes
    Leader,
    /// The others
    Replica,
    /// Whichever answered fastest lately
    Nearest,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Freshness {
    /// Everything acknowledged before the call
    Linearizable,
    /// Everything acknowledged longer than --max-lag-ms ago
    Bounded,
    /// Whatever the replica has
    Any,
}

/// Arguments of a read in a cluster.
#[derive(Args, Clone, Debug, Default)]
pub struct ReadArgs {
    /// Which replicas to ask first; others answer if those do not [default: leader]
    #[arg(long, value_enum, value_name = "WHICH")]
    prefer: Option<Preference>,
    /// How fresh the answer must be [default: linearizable from a leader, else bounded]
    #[arg(long, value_enum, value_name = "HOW")]
    consistency: Option<Freshness>,
    /// How far the replica may lag, with --consistency bounded: 1 to 3,600,000
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    max_lag_ms: u64,
    /// Answer although partitions do not; they are named
    #[arg(long)]
    allow_partial: bool,
}

impl ReadArgs {
    fn read(&self) -> Read {
        let mut read = Read::new().allow_partial(self.allow_partial);
        if let Some(prefer) = self.prefer {
            read = read.preference(match prefer {
                Preference::Leader => ReadPreference::Master,
                Preference::Replica => ReadPreference::Replica,
                Preference::Nearest => ReadPreference::Nearest,
            });
        }
        match self.consistency {
            Some(Freshness::Linearizable) => read.consistency(Consistency::Linearizable),
            Some(Freshness::Bounded) => {
                read.consistency(Consistency::Bounded(Duration::from_millis(self.max_lag_ms)))
            }
            Some(Freshness::Any) => read.consistency(Consistency::Any),
            None => read,
        }
    }

    /// A client of `target` whose reads are as told.
    pub async fn client(&self, target: &Target) -> anyhow::Result<Client> {
        Ok(target.client().await?.with_read(self.read()))
    }
}

/// Says on standard error which partitions an answer lacks.
pub fn tell_missing(coverage: &Coverage) {
    if let Some(words) = output::missing_words(coverage) {
        eprintln!("incomplete: {words}");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        read: ReadArgs,
    }

    fn read(words: &[&str]) -> Result<Read, clap::Error> {
        Line::try_parse_from(["x"].iter().chain(words)).map(|line| line.read.read())
    }

    #[test]
    fn what_is_asked_for_is_what_is_read() {
        let nothing = Read::new().allow_partial(false);
        assert_eq!(read(&[]).unwrap(), nothing);
        let nearest = nothing.clone().preference(ReadPreference::Nearest).allow_partial(true);
        assert_eq!(read(&["--prefer", "nearest", "--allow-partial"]).unwrap(), nearest);
        let bounded = nothing.consistency(Consistency::Bounded(Duration::from_millis(7)));
        assert_eq!(read(&["--consistency", "bounded", "--max-lag-ms", "7"]).unwrap(), bounded);
        assert!(read(&["--max-lag-ms", "0"]).is_err() && read(&["--prefer", "any"]).is_err());
    }
}
