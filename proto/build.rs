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
    tonic_prost_build::configure().btree_map(".").bytes(".flotilla.peer.v1").compile_fds(descriptors)?;
    Ok(())
}
