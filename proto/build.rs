//! Compiles the `.proto` files with protox, so that no `protoc` is needed.
use std::io::Write as _;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "flotilla/v1/record.proto",
        "flotilla/v1/collections.proto",
        "flotilla/v1/aggregate.proto",
        "flotilla/v1/records.proto",
        "flotilla/v1/search.proto",
        "flotilla/v1/cluster.proto",
        "flotilla/shard/v1/shard.proto",
        "flotilla/peer/v1/peer.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::File::create(out.join("flotilla.bin"))?.write_all(&descriptors.encode_to_vec())?;
    let shared = [
        ".flotilla.peer.v1",
        ".flotilla.shard.v1.GetResponse.records",
        ".flotilla.shard.v1.ScanResponse.records",
    ];
    let configured = || tonic_prost_build::configure().btree_map(".");
    let whole = shared.into_iter().fold(configured(), |builder, path| builder.bytes(path));
    whole.compile_fds(descriptors.clone())?;
    // The services that pass records on as they came, in the same messages but for those that hold them.
    let passing = out.join("passing");
    std::fs::create_dir_all(&passing)?;
    let messages = ["GetResponse", "ScanResponse"].into_iter().fold(configured(), |builder, name| {
        builder.extern_path(format!(".flotilla.v1.{name}"), format!("crate::passed::{name}"))
    });
    messages
        .extern_path(".flotilla.v1", "crate::v1")
        .build_client(false)
        .out_dir(passing)
        .compile_fds(of_records(descriptors))?;
    Ok(())
}

/// The file of the service of records alone.
fn of_records(mut descriptors: prost_types::FileDescriptorSet) -> prost_types::FileDescriptorSet {
    descriptors.file.retain(|file| file.name() == "flotilla/v1/records.proto");
    descriptors
}
