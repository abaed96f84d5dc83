//! `flotilla tenants`: what tenants have, did and may.

use std::io::Write as _;

use clap::{Args, Subcommand};
use flotilla_proto::v1::TenantUsage;
use serde_json::json;

use crate::output::Output;
use crate::table::{Align, Table};
use crate::target::{self, Target};

/// Arguments of `flotilla tenants`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla tenants usage --to http://db:15010 --api-key-file ops.key")]
pub struct TenantsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Prints what each tenant has beside what it may have; to who is a tenant's, that one
    #[command(after_help = "Examples:
  flotilla tenants usage
  flotilla tenants usage --tenant acme --output json")]
    Usage {
        #[command(flatten)]
        target: Target,
        /// Only this tenant
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Form of the answer
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
}

impl TenantsArgs {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let Action::Usage { target, tenant, output } = self.action;
        target::run(0, async move {
            let tenants = target.client().await?.usage(tenant.as_deref()).await?;
            let text = match output {
                Output::Table => table(&tenants),
                Output::Json => format!("{}\n", document(&tenants)),
            };
            Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
        })
    }
}

fn table(tenants: &[TenantUsage]) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("tenant", left, 63),
        ("class", left, 12),
        ("collections", right, 16),
        ("records", right, 14),
        ("vectors", right, 14),
        ("bytes", right, 34),
        ("requests/min", right, 20),
    ]);
    for usage in tenants {
        let limits = usage.limits.unwrap_or_default();
        table.row([
            usage.tenant.clone(),
            usage.class.clone(),
            format!("{}/{}", usage.collections, limits.max_collections),
            usage.records.to_string(),
            usage.vectors.to_string(),
            format!("{}/{}", usage.storage_bytes, limits.max_storage_bytes),
            format!("{}/{}", usage.requests_last_minute, limits.max_requests_per_minute),
        ]);
    }
    table.render()
}

fn document(tenants: &[TenantUsage]) -> serde_json::Value {
    let one = |usage: &TenantUsage| {
        let limits = usage.limits.unwrap_or_default();
        json!({
            "tenant": usage.tenant, "class": usage.class, "collections": usage.collections,
            "records": usage.records, "vectors": usage.vectors, "storage_bytes": usage.storage_bytes,
            "requests_last_minute": usage.requests_last_minute,
            "limits": {
                "max_collections": limits.max_collections,
                "max_vectors_per_collection": limits.max_vectors_per_collection,
                "max_storage_bytes": limits.max_storage_bytes,
                "max_requests_per_minute": limits.max_requests_per_minute,
            },
        })
    };
    tenants.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::v1::TenantLimits;

    use super::*;

    #[test]
    fn what_a_tenant_has_stands_beside_what_it_may_have() {
        let limits = Some(TenantLimits { max_collections: 100, ..Default::default() });
        let usage = TenantUsage { tenant: "acme".into(), collections: 3, limits, ..Default::default() };
        assert!(table(std::slice::from_ref(&usage)).contains("3/100"));
        assert_eq!(document(&[usage])[0]["limits"]["max_collections"], 100);
    }
}
